# SPDX-License-Identifier: MIT
"""What is true whatever the kernels say: read from the machine, never asked of a guest."""
