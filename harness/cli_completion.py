# SPDX-License-Identifier: MIT
"""`mkh completion`: what a shell needs to complete commands, options and kernel definitions."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Shell to print it for.")], /
) -> int:
    """Print what a shell needs to complete commands, options and kernel definitions.

    For example, once in a shell, or for good in its start-up file (~/.bashrc):

        source <(mkh completion bash)

        mkh completion zsh >~/.zfunc/_mkh

        mkh completion fish >~/.config/fish/completions/mkh.fish
    """
    from harness.cli import app

    print(app.generate_completion(shell=shell))
    return 0
