"""The signals that end a mesh: every process of one has to mean the same ones."""

from __future__ import annotations

import signal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, whoever ends processes, and a terminal that was closed."""
