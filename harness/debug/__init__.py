# SPDX-License-Identifier: MIT
"""Debuggers on machines with several kernels: gdb and drgn, on a live machine or its kept memory."""
