# SPDX-License-Identifier: MIT
"""Results and consoles for people and for other systems."""
