"""Both ends' proxies may report one connection; the one that knows more is heard."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from troth.explain.noted import TROUBLE
from troth.mesh.connections import Reason, Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.explain.noted import Noted

_Ends = tuple[str, str, int]
"""Client, the server's IP, and its port."""

_TOGETHER = timedelta(seconds=5)

_ECHOES = frozenset(
    {
        Reason.REFUSED_BY_PEER,
        Reason.NO_HANDSHAKE,
        Reason.HANDSHAKE_FAILED,
        Reason.UNREACHABLE,
        Reason.OTHER,
    }
)
"""What an end says when the other end has ended the connection."""


def told_once(noted: Iterable[Noted]) -> tuple[Noted, ...]:
    """Leave out what only echoes the other end's report of the same connections.

    Connections carry no number that both ends know. So reports belong together when client,
    server and port are the same and their newest connections began within five seconds.
    """
    noted = tuple(noted)
    failed = [each for each in noted if each.total.newest.outcome in TROUBLE]
    by_server: dict[_Ends, list[Noted]] = defaultdict(list)
    for each in failed:
        total = each.total
        if total.newest.side is Side.SERVER:
            by_server[total.source, total.newest.destination.address, total.port].append(each)
    echoes: set[int] = set()
    for one in failed:
        if one.total.newest.side is not Side.CLIENT:
            continue
        for server in one.servers:
            for other in by_server.get((one.total.source, server.address, server.port), ()):
                echo = one if one.total.newest.reason in _ECHOES else other
                together = abs(one.total.last - other.total.last) <= _TOGETHER
                if together and echo.total.newest.reason in _ECHOES:
                    echoes.add(id(echo))
    return tuple(each for each in noted if id(each) not in echoes)
