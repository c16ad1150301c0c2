"""Changes of mode while calls go on, of which none may be lost: on one machine and in a cluster."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, Self

from tests.e2e.client import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Callable

CHANGES = int(os.environ.get("TROTH_MODE_CHANGES", "24"))
"""``TROTH_MODE_CHANGES=1000`` makes it the long form."""

NONE = "none"
ROUND = (
    *(NONE, "PERMISSIVE", "STRICT", "DISABLE", NONE, "STRICT", NONE, "DISABLE"),
    *("STRICT", "PERMISSIVE", "DISABLE", "PERMISSIVE", NONE),
)
"""Every ordered pair of them, each once."""


class Calls:
    """Calls of a server by new connections, several at a time, while the context lasts.

    Args:
        start: Starts a command of Python's in the client's pod, as of `subprocess.Popen`.
        host: The server's.
        port: The server's.
    """

    def __init__(
        self, start: Callable[..., subprocess.Popen[Any]], host: str, port: int = 8080
    ) -> None:
        self._start = start
        self._command = (str(PROGRAMS / "callers.py"), host, str(port))

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = self._start(*self._command, stdin=pipe, stdout=pipe, text=True)
        self.go_on()
        return self

    def __exit__(self, *error: object) -> None:
        out, _ = self._process.communicate("")
        seen: dict[str, Any] = json.loads(out)
        if error == (None, None, None):
            failed = len(seen["failed"])
            assert not failed, f"{failed} of {seen['count']}: {self._process.args!r}"

    def go_on(self) -> None:
        """Wait until there have been some more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "going on\n"
