# SPDX-License-Identifier: MIT
"""A kernel definition in, a bootable kernel out."""
