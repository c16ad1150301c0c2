"""Why connections were refused or failed, the newest first, with cause and remedy."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal

import msgspec

from troth.errors import PeerError
from troth.explain.noted import told_once
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy
from troth.syntax import choices
from troth.traffic.connection import Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.explain.noted import Noted, Observations
    from troth.mesh.world import World


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a cluster that did not answer."""

    node: str
    why: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Connections that were refused or failed alike.

    Attributes:
        source: ``NAMESPACE/NAME`` of the client's workload, or its IP if unknown.
        source_address: The newest client's IP.
        destination: ``NAMESPACE/NAME`` of the server's workload, or of the service that was
            dialled, or an IP if it is neither.
        destination_address: The IP that the newest of them went to.
        port: The server's port, or the service's.
        count: How many there were.
        first: When the first of them began.
        last: When the newest began.
        mode: The port's effective mode then, if the destination is in the mesh.
        decided_by: What had set it.
        detail: Envoy's own words about the newest.
        claimed_peer: The SPIFFE ID in a certificate that was refused: a claim, not an identity.
        cause: Why, in one sentence.
        remedy: What to do, in one sentence.
        manifests: YAML to apply against it, if known; any one of several is enough.
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
    """A finding of `troth check` that affects pods' connections.

    Attributes:
        code: The kind of finding, for programs.
        where: The object, ``KIND NAMESPACE/NAME``.
        what: The fact, in one clause.
        why: Why it matters, in one sentence.
        remedy: What to do, in one sentence.
    """

    code: str
    where: str
    what: str
    why: str
    remedy: str


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Recent refusals and failures; ``troth why -o json`` prints exactly this.

    Attributes:
        complete_since: From this moment on nothing is missing.
        not_captured: Pods that should be in the mesh and aren't.
        refused_by_envoy: Resources that Envoy rejects, each with its words.
        refusals: Newest first.
        conflicts: What else affects the pods' connections; only in a cluster.
        unanswered: Nodes that have not answered.
    """

    schema: Literal["troth/why/v1"] = "troth/why/v1"
    complete_since: datetime
    not_captured: tuple[NotCaptured, ...] = ()
    refused_by_envoy: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...]
    conflicts: tuple[Conflict, ...] = ()
    unanswered: tuple[Unanswered, ...] = ()


_LOST = frozenset(
    {
        Reason.UNREACHABLE,
        Reason.NO_HANDSHAKE,
        Reason.HANDSHAKE_FAILED,
        Reason.PEER_VANISHED,
        Reason.OTHER,
    }
)
"""The reasons if something between the two proxies drops or redirects connections."""


def why(
    seen: Observations,
    *,
    about: str | None = None,
    most: int = 10,
    conflicts: Iterable[Conflict] = (),
    unanswered: Iterable[Unanswered] = (),
) -> Why:
    """Explain what was refused and what failed.

    Args:
        seen: The connections seen.
        about: ``NAMESPACE/NAME`` of the only workload, pod or service of interest.
        most: The maximum number of refusals to explain.
        conflicts: What affects the pods' connections: possible causes of those that reach nobody.
        unanswered: The nodes that have not answered.

    Raises:
        PeerError: Nothing seen or existing has the given name.
    """
    world, conflicts = seen.world, tuple(conflicts)
    if about is not None:
        _require_known(about, seen)
    wanted = _called(world, about) if about else None
    failed = (
        each
        for each in sorted(told_once(seen.noted), key=lambda each: each.total.last, reverse=True)
        if each.total.newest.outcome.is_trouble and (wanted is None or wanted & each.ends)
    )
    missing = (
        NotCaptured(pod=str(world.pods[uid]), why=reason)
        for uid, reason in seen.not_captured.items()
        if uid in world.pods
        and (wanted is None or wanted & {str(world.pods[uid]), world.pods[uid].workload})
    )
    return Why(
        complete_since=seen.complete_since,
        not_captured=tuple(sorted(missing, key=lambda each: each.pod)),
        refused_by_envoy=seen.refused_by_envoy,
        refusals=tuple(
            _blamed(refusal, conflicts) for refusal in map(_refusal, islice(failed, most))
        ),
        conflicts=conflicts,
        unanswered=tuple(unanswered),
    )


def _require_known(about: str, seen: Observations) -> None:
    pods = seen.world.pods.values()
    names = {
        *seen.world.services,
        *(name for each in seen.noted for name in each.ends),
        *(name for pod in pods for name in (str(pod), pod.workload)),
    }
    if about not in names:
        raise PeerError(
            "troth",
            f"no workload, pod or service is called {about!r}, and nobody by that name connected",
            choices(about, (pod.workload for pod in pods)),
        )


def _blamed(refusal: Refusal, conflicts: Iterable[Conflict]) -> Refusal:
    """The refusal, with the conflict that may be its cause."""
    ends = {end.partition("/")[0] for end in (refusal.source, refusal.destination)}
    for each in conflicts if refusal.reason in _LOST else ():
        if each.where.rpartition(" ")[2].partition("/")[0] in ends:
            cause = f"{refusal.cause} It may be that {each.where} {each.what}."
            return msgspec.structs.replace(refusal, cause=cause, remedy=each.remedy)
    return refusal


def _refusal(noted: Noted) -> Refusal:
    total, event = noted.total, noted.total.newest
    return Refusal(
        source=total.source,
        source_address=event.source.address,
        destination=noted.destination,
        destination_address=event.destination.address,
        port=total.port or event.destination.port,
        outcome=event.outcome,
        reason=event.reason,
        count=total.count,
        first=total.first,
        last=total.last,
        mode=event.mode,
        decided_by=event.decided_by,
        detail=event.detail,
        claimed_peer=event.claimed_peer,
        cause=noted.cause,
        remedy=noted.remedy,
        manifests=noted.manifests,
    )


def _called(world: World, about: str) -> set[str]:
    """The names of ``about`` in reports, which are about workloads, not single pods."""
    return {about, *(pod.workload for pod in world.pods.values() if str(pod) == about)}
