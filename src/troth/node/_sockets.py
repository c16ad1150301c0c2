"""Which TCP sockets there are in a pod's network namespace, from ``/proc/net/tcp`` (proc(5))."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.node._netns import call_in

if TYPE_CHECKING:
    from collections.abc import Iterator

# net/tcp_states.h
_TIME_WAIT, _CLOSE, _LISTEN = 0x06, 0x07, 0x0A
_UNCONNECTED = frozenset({_TIME_WAIT, _CLOSE, _LISTEN})

_TABLES = ("tcp", "tcp6")


class TcpSockets(msgspec.Struct, frozen=True, kw_only=True):
    """The sockets of one namespace by local port.

    Attributes:
        listening: Ports that somebody listens on.
        connected: Ports that have connections which aren't over yet.
    """

    listening: frozenset[int]
    connected: frozenset[int]


def tcp_sockets(netns: Path) -> TcpSockets:
    """Look at the sockets in the network namespace at ``netns``.

    Raises:
        PeerError: There is no network namespace.
        EnvironmentLackError: It may not be entered.
    """
    return call_in(netns, lambda: parse_tables(*_read()))


def parse_tables(*tables: str) -> TcpSockets:
    """Read the text of ``/proc/net/tcp`` and ``/proc/net/tcp6``."""
    sockets = [each for table in tables for each in _parse(table)]
    return TcpSockets(
        listening=frozenset(port for port, state in sockets if state == _LISTEN),
        connected=frozenset(port for port, state in sockets if state not in _UNCONNECTED),
    )


def _read() -> Iterator[str]:
    for table in _TABLES:
        path = Path("/proc/thread-self/net") / table
        if path.exists():  # there is no tcp6 without IPv6
            yield path.read_text()


def _parse(table: str) -> Iterator[tuple[int, int]]:
    """Local port and state of each socket, below the heading."""
    for line in table.splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        yield int(local.rpartition(":")[2], 16), int(state, 16)
