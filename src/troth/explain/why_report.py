"""The form of `troth why`'s answer."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy
from troth.traffic.connection import Outcome, Reason


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a cluster that was asked what it has seen and did not say."""

    node: str
    why: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Connections that were refused or failed alike.

    Attributes:
        source: ``NAMESPACE/NAME`` of the client's workload, or its IP where it is none known.
        source_address: The newest client's IP.
        destination: ``NAMESPACE/NAME`` of the server's workload, or of the service that was
            dialled, or an IP where it is neither.
        destination_address: The IP that the newest of them went to.
        port: The server's port, or the service's.
        count: How many there were.
        first: When the first of them began.
        last: When the newest began.
        mode: The port's effective mode then, where the destination is in the mesh.
        decided_by: What had set it.
        detail: Envoy's own words about the newest.
        claimed_peer: The SPIFFE ID in a certificate that was refused: a claim, not an identity.
        cause: Why, in one sentence.
        remedy: What to do, in one sentence.
        manifests: What to apply for it (YAML), where that is known; of several any one.
    """

    source: str
    source_address: str
    destination: str
    destination_address: str
    port: int
    outcome: Outcome
    reason: Reason
    count: int
    first: datetime
    last: datetime
    mode: Mode | None
    decided_by: DecidedBy | None
    detail: str
    claimed_peer: str | None
    cause: str
    remedy: str
    manifests: str = ""


class NotCaptured(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that should be in the mesh and isn't."""

    pod: str
    why: str


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """What in a cluster is in the way of its pods' connections, as `troth check` finds it.

    Attributes:
        code: Names the kind of finding, for programs.
        where: The object, ``KIND NAMESPACE/NAME``.
        what: What is so, in one clause.
        why: Why it matters, in one sentence.
        remedy: What to do, in one sentence.
    """

    code: str
    where: str
    what: str
    why: str
    remedy: str


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong of late; ``troth why -o json`` prints exactly this.

    Attributes:
        complete_since: From this moment on nothing is missing.
        not_captured: Pods that should be in the mesh and aren't.
        refused_by_envoy: Resources that Envoy refuses, each with its words.
        refusals: The newest first.
        conflicts: What else is in the way of the pods' connections; only of a cluster.
        unanswered: Nodes that have not said what they have seen.
    """

    schema: Literal["troth/why/v1"] = "troth/why/v1"
    complete_since: datetime
    not_captured: tuple[NotCaptured, ...] = ()
    refused_by_envoy: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...]
    conflicts: tuple[Conflict, ...] = ()
    unanswered: tuple[Unanswered, ...] = ()
