"""Both ends' proxies may report one connection; the one that knows more is heard."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from troth.mesh import Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.explain._names import Names
    from troth.mesh import Total

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


def told_once(totals: Iterable[Total], names: Names) -> tuple[Total, ...]:
    """Leave out what only echoes the other end's report of the same connections.

    Connections carry no number that both ends know. So reports belong together when client,
    server and port are the same and their newest connections began within five seconds.
    """
    totals = tuple(totals)
    failed = [each for each in totals if each.newest.outcome in {Outcome.REFUSED, Outcome.FAILED}]
    by_server: dict[_Ends, list[Total]] = defaultdict(list)
    for each in failed:
        if each.newest.side is Side.SERVER:
            by_server[each.source, each.newest.destination.address, each.port].append(each)
    echoes: set[int] = set()
    for one in failed:
        if one.newest.side is not Side.CLIENT:
            continue
        for ends in _ends(one, names):
            for other in by_server.get(ends, ()):
                echo = one if one.newest.reason in _ECHOES else other
                together = abs(one.last - other.last) <= _TOGETHER
                if together and echo.newest.reason in _ECHOES:
                    echoes.add(id(echo))
    return tuple(each for each in totals if id(each) not in echoes)


def _ends(client: Total, names: Names) -> Iterator[_Ends]:
    """Which servers a client may have been led to."""
    service = names.service(client)
    if service is None:
        yield client.source, client.newest.destination.address, client.port
        return
    for port in service.ports:
        if port.number == client.port:
            for endpoint in port.endpoints:
                yield client.source, endpoint.address, endpoint.port
