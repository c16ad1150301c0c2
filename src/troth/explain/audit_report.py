"""A mesh's readiness for STRICT by its connections, as a value with a stable JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import msgspec

from troth.errors import Problem
from troth.explain.front_doors import Breakage, FrontDoor
from troth.explain.why import Unanswered
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Who connected to whom.

    Attributes:
        source: ``NAMESPACE/NAME`` of the client's workload, or its IP if unknown.
        destination: The same for the server, or the service that was dialled.
        port: The server's.
        tunnel: How many connections came through the tunnel.
        plaintext: How many were accepted in plaintext.
        refused: How many were refused.
        last: When the newest of all these began.
    """

    source: str
    destination: str
    port: int
    tunnel: int
    plaintext: int
    refused: int
    last: datetime


class PortState(StrEnum):
    """Whether a port can become STRICT."""

    STRICT = "strict"
    """It is."""
    READY = "ready"
    """It has traffic, all of it through the tunnel."""
    PLAINTEXT = "plaintext"
    """Somebody still speaks plaintext to it."""
    FRONT_DOOR = "front door"
    """Clients without an identity come from outside every mesh, or may; no pod was seen."""
    LEFT_OPEN = "left open"
    """Such clients may come, and a policy leaves this port open to them on purpose."""
    NO_TRAFFIC = "no traffic"
    """Nobody has connected, so there is no evidence."""
    DISABLED = "disabled"
    """A policy says DISABLE, so nobody uses the tunnel to it."""

    @property
    def is_ready(self) -> bool:
        """Whether nothing that was seen would break."""
        return self in {PortState.STRICT, PortState.READY, PortState.LEFT_OPEN}


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks plaintext to a port.

    Attributes:
        source: ``NAMESPACE/NAME`` of its workload, or its IP if unknown.
        count: How many connections were accepted.
        last: When the newest of them began.
    """

    source: str
    count: int
    last: datetime


class PortAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a workload.

    Attributes:
        mode: The effective mode now.
        decided_by: What sets it.
        because_of: The clients that keep it from being ready.
        front_doors: How clients from outside every mesh may reach it.
        verdict: Whether STRICT would refuse clients that get through today.
    """

    state: PortState
    mode: Mode
    decided_by: DecidedBy
    because_of: tuple[Client, ...] = ()
    front_doors: tuple[FrontDoor, ...] = ()
    verdict: Breakage = Breakage.NONE


class WorkloadAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One workload of the mesh.

    Attributes:
        ready: It is captured, and each of its ports is ready for STRICT or has it.
        captured: All of its pods are.
        why: Why not all of them are; empty if they are.
        mode: The effective mode of ports that ``ports`` doesn't name.
        ports: Those that its containers declare, that services target, and that were used.
    """

    namespace: str
    name: str
    ready: bool
    captured: bool
    why: str
    mode: Mode
    ports: Mapping[int, PortAudit]

    @property
    def key(self) -> str:
        """``NAMESPACE/NAME``."""
        return f"{self.namespace}/{self.name}"


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A PeerAuthentication that doesn't refuse any client that was seen.

    Attributes:
        workloads: Those it makes STRICT.
        exceptions: Why it leaves ports as they are.
        manifest: The object.
        verdict: Whether it would refuse unseen clients that get through today.
        replaces: Whether it replaces an existing policy of the same name.
    """

    workloads: tuple[str, ...]
    exceptions: Mapping[int, str]
    manifest: Mapping[str, Any]
    verdict: Breakage = Breakage.NONE
    replaces: bool = False


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that no policy is proposed for, though it is not STRICT."""

    workload: str
    why: str


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The audit; ``troth audit -o json`` prints exactly this.

    Attributes:
        ready: Whether every workload of the mesh is.
        verdict: Whether STRICT for all of them would refuse clients that get through today.
        outside: Workloads outside the mesh, any of which may call any port.
        since: The start of the requested time.
        complete_since: From this moment on nothing is missing; if it is later than ``since``, the
            report covers only this shorter time.
        pairs: By destination, port and source.
        workloads: All that are in the mesh.
        policies: The policies that could be applied now.
        left_out: Why other workloads have no policy.
        unanswered: Nodes of a cluster that have not answered.
        problems: What could not be read, so that clients may be unknown.
    """

    schema: Literal["troth/audit/v1"] = "troth/audit/v1"
    ready: bool
    verdict: Breakage = Breakage.NONE
    outside: tuple[str, ...] = ()
    since: datetime
    complete_since: datetime
    pairs: tuple[Pair, ...]
    workloads: tuple[WorkloadAudit, ...]
    policies: tuple[Proposal, ...]
    left_out: tuple[LeftOut, ...]
    unanswered: tuple[Unanswered, ...] = ()
    problems: tuple[Problem, ...] = ()
