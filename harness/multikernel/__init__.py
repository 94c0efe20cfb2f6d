# SPDX-License-Identifier: MIT
"""What a series offers, driven through the guest. Nothing here starts a process."""
