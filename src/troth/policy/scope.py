"""Which policies can apply to a workload, and which of several counts: the rules, as data.

A policy's scope follows from two facts: where it lives and whether it has a selector. In each scope
at most one policy counts, the oldest. The narrowest scope whose policy sets a mode decides; UNSET
defers to the next wider one. If a scope's oldest policy leaves a mode open, a younger one of the
same scope does not fill it in.

This is what istiod does: ``ComposePeerAuthentication`` in ``pilot/pkg/security/authn`` composes the
scopes, and ``sortConfigByCreationTime`` in ``pilot/pkg/model`` is the order of age.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from troth.policy.model import PeerAuthentication


class Scope(StrEnum):
    """How far a policy reaches."""

    MESH = "mesh"
    NAMESPACE = "namespace"
    WORKLOAD = "workload"
    DEFAULT = "default"
    """No policy sets a mode: PERMISSIVE."""


NARROWEST_FIRST = (Scope.WORKLOAD, Scope.NAMESPACE, Scope.MESH)

# (lives in the root namespace, has a selector) -> scope; None applies to no workload at all, not
# even to those of the root namespace.
_SCOPES = {
    (True, False): Scope.MESH,
    (False, False): Scope.NAMESPACE,
    (False, True): Scope.WORKLOAD,
    (True, True): None,
}

# A policy from a file has no timestamp. istiod reads that as Go's zero time, before all others.
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


def scope_of(policy: PeerAuthentication, root_namespace: str) -> Scope | None:
    """The scope of ``policy``; None if it applies to nothing."""
    return _SCOPES[policy.namespace == root_namespace, bool(policy.selector)]


def by_age(policy: PeerAuthentication) -> tuple[datetime, str, str]:
    """Sort key: the policy with the smallest one counts in its scope.

    Names are compared by code point, the order of their UTF-8 bytes: ``rule-10`` is before
    ``rule-9``.
    """
    return policy.created or _BEFORE_ALL, policy.name, policy.namespace


def why_before(winner: PeerAuthentication, loser: PeerAuthentication) -> str:
    """Say in a clause why ``winner`` counts rather than ``loser``, in the scope of both."""
    if winner.created is None and loser.created is None:
        return f"{winner.key} comes first by name (neither has a creationTimestamp)"
    if winner.created is None:
        return f"{winner.key} has no creationTimestamp, which counts as the oldest"
    if winner.created == loser.created:
        return f"{winner.key} comes first by name (both were created at {_rfc3339(winner.created)})"
    return f"{winner.key} is older (created at {_rfc3339(winner.created)})"


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
