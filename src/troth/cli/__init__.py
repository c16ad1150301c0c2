"""The `troth` command: a thin shell over the other packages' faces."""

from __future__ import annotations

from troth.cli._app import main

__all__ = ["main"]
