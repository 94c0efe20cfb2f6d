# SPDX-License-Identifier: MIT
"""Reading what kernels print."""
