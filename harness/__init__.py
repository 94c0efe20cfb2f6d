# SPDX-License-Identifier: MIT
"""mkharness: builds, boots and judges Linux trees that carry a multikernel patch series."""
