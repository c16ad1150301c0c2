"""Connections that Envoy closed at once because there were too many, from its counters.

They aren't in any access log: Envoy spends nothing on them. It counts them by listener, and so by
pod and direction.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from troth.envoy.accesslog import Role
from troth.traffic.connection import ConnectionReport, Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    Counts = Mapping["Overflowing", int]

_PAUSE_SECONDS = 2.0
_PATIENCE_SECONDS = 5.0

_STATS = "/stats?usedonly"
"""Only counters that aren't zero, usually none."""


class _Counter(NamedTuple):
    """One of Envoy's counters per listener, and its meaning."""

    name: str
    reason: Reason
    detail: str


_COUNTERS = (
    _Counter("downstream_cx_overflow", Reason.TOO_MANY_CONNECTIONS, ""),
    _Counter(
        "downstream_global_cx_overflow",
        Reason.NODE_OVERLOADED,
        "had as many connections open as its limit on open files allows",
    ),
    _Counter(
        "downstream_cx_overload_reject",
        Reason.NODE_OVERLOADED,
        "had used nearly all the memory that it may",
    ),
)

COUNTERS = tuple(f".{counter.name}" for counter in _COUNTERS)
"""The suffixes of the counters that Envoy must keep."""

_KINDS = {
    Role.TUNNEL_IN: "that come by the tunnel",
    Role.PLAIN_IN: "that come in plaintext",
    Role.OUTBOUND: "that leave it",
}

_LINE = re.compile(
    rf"listener\.(?P<role>{'|'.join(Role)})\|(?P<pod>.+)"
    rf"\.(?P<counter>{'|'.join(counter.name for counter in _COUNTERS)}): (?P<count>[0-9]+)"
)


class Overflowing(NamedTuple):
    """The key of a count: refusals of one listener for one reason."""

    role: Role
    pod: str
    counter: _Counter


def read_counts(text: str) -> Counts:
    """Parse the answer of Envoy's admin interface to ``/stats``; other counters are left out."""
    counters = {counter.name: counter for counter in _COUNTERS}
    return {
        Overflowing(Role(found["role"]), found["pod"], counters[found["counter"]]): int(
            found["count"]
        )
        for line in text.splitlines()
        if (found := _LINE.fullmatch(line))
    }


def overflows(before: Counts, now: Counts, time: datetime) -> tuple[ConnectionReport, ...]:
    """Refusals between two readings of the counters, the second at ``time``."""
    found = []
    for what, count in now.items():
        past = before.get(what, 0)
        # A new Envoy, or a new listener of the same name, starts at zero.
        new = count - past if count >= past else count
        if new:
            found.append(
                ConnectionReport.of_count(
                    what.pod,
                    time=time,
                    count=new,
                    outcome=Outcome.FAILED,
                    reason=what.counter.reason,
                    side=Side.CLIENT if what.role is Role.OUTBOUND else Side.SERVER,
                    detail=what.counter.detail or _KINDS[what.role],
                )
            )
    return tuple(found)


class OverflowWatch:
    """Detects connections that Envoy closed because there were too many.

    Args:
        admin: The Unix socket of Envoy's admin interface.
    """

    def __init__(self, admin: Path) -> None:
        self._admin = admin
        self._counts: Counts = {}

    async def overflows(self) -> AsyncIterator[ConnectionReport]:
        """New refusals, every two seconds, without end."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            # The socket is missing while Envoy starts or ends; read the counters later.
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
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
