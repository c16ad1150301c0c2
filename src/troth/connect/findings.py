"""What is known about one connection: its route, how far it got, and the proxies' reports."""

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
    """How far a client's connection got, as seen by the client."""

    ANSWERED = "answered"
    """The other side sent data."""

    SILENT = "silent"
    """Connected, but no data came before the timeout."""

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
        source_port: The pod's TCP port.
        address: The dialled IP; for a service its virtual IP.
        port: The dialled port.
        reply: The beginning of the answer.
        detail: The kernel's error message, if any.
        elapsed_ms: Milliseconds until the answer began, or until it was clear that none comes.
        event: The proxy's report of the same connection; None if there is none, for example if
            neither end is captured.
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
    """The decisions of both ends about connections to one endpoint."""

    client: ClientDecision
    server: ServerDecision


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """The expected path of a connection, before it is made.

    Attributes:
        source: The pod that connects, ``NAMESPACE/NAME``.
        in_mesh: Whether it should be captured; ``captured`` whether it is.
        why: Why it is in the mesh or not, or isn't captured although it should be.
        identity: Its SPIFFE ID, if it is captured.
        address: The dialled IP; for a service its virtual IP.
        port: The dialled port.
        service: ``NAMESPACE/NAME`` of the dialled service, None for a pod or an address.
        service_ports: The TCP ports of the service of that name, dialled or not.
        ways: One for each possible endpoint.
        unready: The pods that a service without endpoints selects, each with its problem.
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
    """Where a pod's processes listen, without troth's own ports."""

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

    A captured pod's proxy opens its own connection, with another port, so ``own_port`` is None
    then. That connection is recognised by both ends and the time, so it could be confused with
    another of the same pod to the same port at the same moment, which would have been handled the
    same. If clocks differ, ``began`` is None, and the caller leaves out earlier reports.
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
    """Whether it only says that the other end aborted, whose own report has the reason."""
    return connection.reason is Reason.REFUSED_BY_PEER
