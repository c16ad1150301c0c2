"""What is known of one connection: where it would go, how far it came, whose reports explain it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from troth.mesh.decisions import ClientDecision, ServerDecision
from troth.mesh.model import Endpoint
from troth.traffic.connection import Connection, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from troth.mesh.model import Pod


class Reached(StrEnum):
    """How far a client came with its connection, by what it saw itself."""

    ANSWERED = "answered"
    """The other side sent data."""

    SILENT = "silent"
    """Connected, and then nothing came for as long as the client waited."""

    CLOSED = "closed"
    """Connected, and closed by the other side without an answer."""

    RESET = "reset"
    """Connected, and reset by the other side."""

    UNREACHABLE = "unreachable"
    """Never connected."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A connection made in a pod's network namespace, as the pod's own processes make theirs.

    Attributes:
        source: The pod, ``NAMESPACE/NAME``.
        source_port: The connection's TCP port there.
        address: What was dialled; a service's virtual IP where there is a service.
        port: The port that was dialled.
        reply: The first of what was received.
        detail: The kernel's words where something went wrong.
        elapsed_ms: Milliseconds until the answer began, or until it was clear that none comes.
        event: What the mesh's proxy reports about the same connection; None if nothing did, as
            where neither end is captured.
    """

    source: str
    source_port: int
    address: str
    port: int
    reached: Reached
    reply: str
    detail: str
    elapsed_ms: float
    event: Connection | None


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What both ends decide about connections to one endpoint."""

    client: ClientDecision
    server: ServerDecision


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection will meet, before it is made.

    Attributes:
        source: The pod that connects, ``NAMESPACE/NAME``.
        in_mesh: Whether it is meant to be captured; ``captured`` whether it is.
        why: Why it is in the mesh or not, or isn't captured although it should be.
        identity: Its SPIFFE ID, where it is captured.
        address: What is dialled; a service's virtual IP where a service was named.
        port: The port that is dialled.
        service: ``NAMESPACE/NAME`` of the service that is dialled, None for a pod or an address.
        service_ports: The TCP ports of the service of that name, dialled or not.
        ways: One for each endpoint that the connection can be led to.
        unready: The pods that a service without endpoints selects, each with what is amiss.
    """

    source: str
    in_mesh: bool
    captured: bool
    why: str
    identity: str | None
    address: str
    port: int
    service: str | None
    service_ports: tuple[int, ...]
    ways: tuple[Way, ...]
    unready: tuple[str, ...]


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """Where a pod's processes listen, troth's own ports left out."""

    pod: str
    sockets: tuple[Endpoint, ...]


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
