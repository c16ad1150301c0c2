"""Looks at Envoy's counters of connections that were too many, by its admin interface."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from troth.envoy.overflow import overflows, read_counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from troth.envoy.overflow import Counts
    from troth.traffic.connection import ConnectionReport

_PAUSE_SECONDS = 2.0
_PATIENCE_SECONDS = 5.0

_STATS = "/stats?usedonly"
"""Only what was ever counted, which is nothing as a rule."""


class OverflowWatch:
    """Notices connections that Envoy closed for being too many.

    Args:
        admin: The Unix socket of Envoy's admin interface.
    """

    def __init__(self, admin: Path) -> None:
        self._admin = admin
        self._counts: Counts = {}

    async def overflows(self) -> AsyncIterator[ConnectionReport]:
        """Whatever is new every two seconds, without end."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            # There is none while Envoy starts or ends; its counters have time.
            with contextlib.suppress(OSError, http.client.HTTPException):
                now = read_counts(await asyncio.to_thread(_get, self._admin, _STATS))
                before, self._counts = self._counts, now
                for each in overflows(before, now, datetime.now(UTC)):
                    yield each


def _get(path: Path, what: str) -> str:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", what)
        return connection.getresponse().read().decode(errors="replace")
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_PATIENCE_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket and not to a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
