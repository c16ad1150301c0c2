"""Which of the proxies' reports is about a connection that was made: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.mesh.connections import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from troth.mesh.connections import Connection
    from troth.mesh.model import Endpoint, Pod


def belongs(
    connection: Connection,
    source: Pod,
    endpoints: Iterable[Endpoint],
    *,
    began: datetime | None,
    own_port: int | None,
) -> bool:
    """Whether the proxy's report is about the connection that ``source`` made at ``began``.

    Behind a captured pod its proxy makes a connection of its own, with another port, so
    ``own_port`` is None then. That one is told by both ends and the time, so it could be mistaken
    for another of the same pod to the same port at the same moment, which would have been treated
    the same. Where clocks differ, ``began`` is None, and earlier reports are to be left out.
    """
    return (
        connection.source.address in source.addresses
        and (own_port is None or connection.source.port == own_port)
        and any(
            (connection.destination.address, connection.destination.port)
            == (endpoint.address, endpoint.port)
            for endpoint in endpoints
        )
        # Envoy writes milliseconds.
        and (
            began is None
            or connection.time >= began.replace(microsecond=began.microsecond // 1000 * 1000)
        )
    )


def is_echo(connection: Connection) -> bool:
    """Whether it only says that the other end broke off, which that one's own report explains."""
    return connection.reason is Reason.REFUSED_BY_PEER
