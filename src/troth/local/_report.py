"""What a running mesh answers to the `troth` command, as values with a stable JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from troth.errors import Problem
from troth.local._status import ContainerStatus
from troth.mesh import ClientDecision, Connection, Endpoint, PodPhase, ServerDecision
from troth.policy import DecidedBy, Mode


class PortStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The effective mode of one port."""

    mode: Mode
    decided_by: DecidedBy


class PodReport(msgspec.Struct, frozen=True, kw_only=True):
    """One pod of the mesh.

    Attributes:
        in_mesh: Whether it is meant to be captured.
        captured: Whether its traffic goes through Envoy.
        why: Why it is in the mesh or not, and why it isn't captured although it should be.
        mode: The mode of all ports that ``ports`` doesn't name; None outside the mesh.
        certificate_expires: Of the SVID in use, UTC.
    """

    namespace: str
    name: str
    workload: str
    uid: str
    addresses: tuple[str, ...]
    phase: PodPhase
    ready: bool
    containers: tuple[ContainerStatus, ...]
    in_mesh: bool
    captured: bool
    why: str
    identity: str | None = None
    mode: Mode | None = None
    decided_by: DecidedBy | None = None
    ports: dict[int, PortStatus] = {}
    certificate_expires: datetime | None = None


class EnvoyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The node's Envoy: whether it is connected, how often restarted, what it refused."""

    connected: bool
    restarts: int
    refused: tuple[str, ...] = ()


class MeshStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole mesh; ``troth status -o json`` prints exactly this.

    Attributes:
        policies: The PeerAuthentications that were taken up, ``NAMESPACE/NAME``, in order. They are
            in force when ``ready``.
        ignored: Objects of kinds that troth has no use for, by ``KIND.GROUP``.
    """

    schema: Literal["troth/status/v1"] = "troth/status/v1"
    ready: bool
    waiting_for: tuple[str, ...]
    trust_domain: str
    root_namespace: str
    envoy: EnvoyStatus
    policies: tuple[str, ...]
    ignored: Mapping[str, int]
    pods: tuple[PodReport, ...]
    problems: tuple[Problem, ...]


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
        elapsed_ms: Milliseconds until the end.
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


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a connection was refused or failed and what to do about it, in a sentence each."""

    cause: str
    remedy: str
