"""The `troth` command: a thin shell over the other packages."""

from __future__ import annotations

import sys

__all__ = ["PLUGIN", "main"]

PLUGIN = "kubectl troth"
"""How the program is called as kubectl's plugin."""


def main() -> None:
    """Run the command line of this process."""
    try:
        # Here, because it takes a while, and Ctrl-C may come meanwhile.
        from troth.cli.app import run_process  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.exit(130)
    run_process()
