"""The decision for a workload, and why each policy considered counts or doesn't."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from troth.policy.model import Mode
from troth.policy.scope import NARROWEST_FIRST, Scope, scope_of, why_before
from troth.syntax import described, label_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.policy.model import PeerAuthentication


class DecidedBy(msgspec.Struct, frozen=True, kw_only=True):
    """Where a mode comes from.

    Attributes:
        policy: ``NAMESPACE/NAME``; None if no policy sets a mode (scope ``default``).
    """

    scope: Scope
    policy: str | None = None

    def __str__(self) -> str:
        return f"{self.policy} ({self.scope})" if self.policy else "the default"


class PortMode(msgspec.Struct, frozen=True, kw_only=True):
    """The effective mode of one port: never UNSET."""

    mode: Mode
    decided_by: DecidedBy


class PortVerdict(PortMode, frozen=True, kw_only=True):
    """The same with its reason, in one sentence."""

    why: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The effective modes of a workload.

    Attributes:
        mode: Of every port that ``ports`` doesn't name; never UNSET.
        ports: By the workload's own (the container's) port, in ascending order: those asked for
            and those named by its workload policy.
    """

    mode: Mode
    decided_by: DecidedBy
    ports: Mapping[int, PortVerdict]

    @property
    def port_modes(self) -> dict[int, PortMode]:
        """``ports`` without the reasons."""
        return {
            number: PortMode(mode=port.mode, decided_by=port.decided_by)
            for number, port in self.ports.items()
        }

    def mode_of(self, port: int) -> Mode:
        """The effective mode of any port, named or not."""
        return self.ports[port].mode if port in self.ports else self.mode

    def decider_of(self, port: int) -> DecidedBy:
        """Where the mode of any port comes from."""
        return self.ports[port].decided_by if port in self.ports else self.decided_by


class PolicyOutcome(StrEnum):
    """The effect of one policy on a workload."""

    DECIDES = "decides"
    """It sets the workload's mode or that of one of its ports."""

    INHERITS = "inherits"
    """It is the one that counts in its scope, but leaves the mode to the next wider scope."""

    SHADOWED = "shadowed"
    """It would apply, but an older one of its scope or one of a narrower scope counts."""

    NO_MATCH = "no match"
    """It does not apply to this workload."""


class Considered(msgspec.Struct, frozen=True, kw_only=True):
    """A policy considered for a workload, and its effect.

    Attributes:
        policy: ``NAMESPACE/NAME``.
        why: The reason in one sentence.
    """

    policy: str
    scope: Scope
    verdict: PolicyOutcome
    why: str


class PolicyVerdict(Decision, frozen=True, kw_only=True):
    """The effective modes of a workload, and why each policy considered counts or doesn't.

    Attributes:
        considered: The policies of the root namespace and of the workload's own, from mesh over
            namespace to workload scope, in each the oldest first.
    """

    considered: tuple[Considered, ...]


# Narrow to wide. The default is wider than any policy.
_WIDTH = {scope: width for width, scope in enumerate((*NARROWEST_FIRST, Scope.DEFAULT))}


def explain(
    policies: Iterable[PeerAuthentication],
    heads: Mapping[Scope, PeerAuthentication | None],
    decision: Decision,
    *,
    labels: Mapping[str, str],
    root_namespace: str,
) -> tuple[Considered, ...]:
    """Explain each policy's effect, widest scope first, otherwise in the order given.

    Args:
        policies: Those of the root namespace and of the workload's own.
        heads: The policy that counts in each scope.
        decision: The result of ``heads``.
        labels: The workload's.
        root_namespace: Where mesh-wide policies live.
    """
    considered = []
    for policy in policies:
        scope = scope_of(policy, root_namespace)
        if scope is None:
            # Meant for a workload, it is listed where its author would look for it.
            scope = Scope.WORKLOAD
            verdict, why = (
                PolicyOutcome.NO_MATCH,
                "it has a selector, and in the root namespace such a policy holds for no workload",
            )
        elif mismatch := _mismatch(policy.selector, labels):
            verdict, why = PolicyOutcome.NO_MATCH, mismatch
        elif (head := heads[scope]) is not None and head is not policy:
            verdict, why = PolicyOutcome.SHADOWED, _outranked(head, policy)
        else:
            verdict, why = _fate_of_head(policy, scope, decision)
        considered.append(Considered(policy=policy.key, scope=scope, verdict=verdict, why=why))
    return tuple(sorted(considered, key=lambda each: -_WIDTH[each.scope]))


def _mismatch(selector: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """Name the first selector label that the workload lacks, in a sentence."""
    for key, value in selector.items():
        needed = label_text(key, value)
        if key not in labels:
            name = key if needed.startswith(key) else described(key)
            return f"its selector needs {needed}, and the workload has no label {name}"
        if labels[key] != value:
            has = label_text(key, labels[key])
            return f"its selector needs {needed}, and the workload has {has}"
    return ""


def _outranked(head: PeerAuthentication, loser: PeerAuthentication) -> str:
    why = f"only one policy counts in a scope, and {why_before(head, loser)}"
    if head.mode is Mode.UNSET and loser.mode is not Mode.UNSET:
        why += ", even though its mode is UNSET"
    return why


def _fate_of_head(
    policy: PeerAuthentication, scope: Scope, decision: Decision
) -> tuple[PolicyOutcome, str]:
    decider = decision.decided_by
    named = _ports(policy) if scope is Scope.WORKLOAD else ""
    if decider.scope is scope:
        also = f"; its portLevelMtls sets the mode of {named}" if named else ""
        return (
            PolicyOutcome.DECIDES,
            f"it sets {policy.mode}, and nothing narrower sets a mode{also}",
        )
    if _WIDTH[decider.scope] < _WIDTH[scope]:
        return PolicyOutcome.SHADOWED, f"{decider} is narrower and sets {decision.mode}"
    inherited = f"the workload's mode is {decision.mode} from {decider}"
    if named:
        return (
            PolicyOutcome.DECIDES,
            f"its portLevelMtls sets the mode of {named}; it leaves all else UNSET, so {inherited}",
        )
    return PolicyOutcome.INHERITS, f"its mode is UNSET, so {inherited}"


def _ports(policy: PeerAuthentication) -> str:
    """The ports whose mode ``policy`` sets, in words."""
    ports = [str(port) for port, mode in sorted(policy.port_modes.items()) if mode != Mode.UNSET]
    if len(ports) > 1:
        return f"ports {', '.join(ports[:-1])} and {ports[-1]}"
    return f"port {ports[0]}" if ports else ""
