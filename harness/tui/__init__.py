# SPDX-License-Identifier: MIT
"""The consoles of a machine's kernels in one terminal: `mkh console`.

``source`` is what is looked at (a lab here, or one that another process serves), ``screen`` makes a
picture of a console's bytes, ``view`` shows it all on the ``terminal``.
"""
