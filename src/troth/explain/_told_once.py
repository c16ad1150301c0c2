"""Both ends' proxies may report one connection; the one that knows more is heard."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from troth.mesh import Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.mesh import Total, World

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


def told_once(totals: Iterable[Total], world: World) -> tuple[Total, ...]:
    """Leave out what only echoes the other end's report of the same connections.

    Connections carry no number that both ends know. So reports belong together when client,
    server and port are the same and their newest connections began within five seconds.
    """
    totals = tuple(totals)
    failed = [each for each in totals if each.newest.outcome in {Outcome.REFUSED, Outcome.FAILED}]
    by_client = [each for each in failed if each.newest.side is Side.CLIENT]
    by_server = [each for each in failed if each.newest.side is Side.SERVER]
    echoes: set[int] = set()
    for one in by_client:
        for other in by_server:
            if _belong_together(one, other, world):
                echo = one if one.newest.reason in _ECHOES else other
                if echo.newest.reason in _ECHOES:
                    echoes.add(id(echo))
    return tuple(each for each in totals if id(each) not in echoes)


def _belong_together(client: Total, server: Total, world: World) -> bool:
    if client.source != server.source or abs(client.last - server.last) > _TOGETHER:
        return False
    if (client.destination, client.port) == (server.destination, server.port):
        return True
    # A client that dialled a service has it for its destination, and its port.
    address = client.newest.destination.address
    return any(
        endpoint.address == server.newest.destination.address and endpoint.port == server.port
        for service in world.services.values()
        if address in service.cluster_ips
        for port in service.ports
        if port.number == client.port
        for endpoint in port.endpoints
    )
