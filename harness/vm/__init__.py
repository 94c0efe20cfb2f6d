# SPDX-License-Identifier: MIT
"""One QEMU: processors, memory, serial lines, QMP. Nothing here knows what a multikernel is."""
