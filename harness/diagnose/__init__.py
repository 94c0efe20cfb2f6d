# SPDX-License-Identifier: MIT
"""What a failing test with a machine tells: looked at only when it has failed."""
