"""Say of every policy that was looked at for a workload why it counts or does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth._syntax import described, label_text
from troth.policy.model import Mode
from troth.policy.scope import NARROWEST_FIRST, Scope, scope_of, why_before
from troth.policy.verdict import Considered, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from troth.policy.model import PeerAuthentication
    from troth.policy.verdict import Decision

# How wide a scope is. The default is wider than any policy.
_WIDTH = {scope: width for width, scope in enumerate((*NARROWEST_FIRST, Scope.DEFAULT))}


def explain(
    policies: Iterable[PeerAuthentication],
    heads: Mapping[Scope, PeerAuthentication | None],
    decision: Decision,
    *,
    labels: Mapping[str, str],
    root_namespace: str,
) -> tuple[Considered, ...]:
    """Tell each policy's fate, the widest scope first and otherwise in the order given.

    Args:
        policies: Those of the root namespace and of the workload's own.
        heads: The one policy that each scope puts forward for the workload.
        decision: What followed from ``heads``.
        labels: The workload's.
        root_namespace: Where mesh-wide policies live.
    """
    considered = []
    for policy in policies:
        scope = scope_of(policy, root_namespace)
        if scope is None:
            # It was meant for a workload, and is listed where its author would look for it.
            scope = Scope.WORKLOAD
            verdict, why = (
                Outcome.NO_MATCH,
                "it has a selector, and in the root namespace such a policy holds for no workload",
            )
        elif mismatch := _mismatch(policy.selector, labels):
            verdict, why = Outcome.NO_MATCH, mismatch
        elif (head := heads[scope]) is not None and head is not policy:
            verdict, why = Outcome.SHADOWED, _outranked(head, policy)
        else:
            verdict, why = _fate_of_head(policy, scope, decision)
        considered.append(Considered(policy=policy.key, scope=scope, verdict=verdict, why=why))
    return tuple(sorted(considered, key=lambda each: -_WIDTH[each.scope]))


def _mismatch(selector: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """The first selector label that the workload does not have, in a sentence."""
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
) -> tuple[Outcome, str]:
    decider = decision.decided_by
    named = _ports(policy) if scope is Scope.WORKLOAD else ""
    if decider.scope is scope:
        also = f"; its portLevelMtls sets the mode of {named}" if named else ""
        return Outcome.DECIDES, f"it sets {policy.mode}, and nothing narrower sets a mode{also}"
    if _WIDTH[decider.scope] < _WIDTH[scope]:
        return Outcome.SHADOWED, f"{decider} is narrower and sets {decision.mode}"
    inherited = f"the workload's mode is {decision.mode} from {decider}"
    if named:
        return (
            Outcome.DECIDES,
            f"its portLevelMtls sets the mode of {named}; it leaves all else UNSET, so {inherited}",
        )
    return Outcome.INHERITS, f"its mode is UNSET, so {inherited}"


def _ports(policy: PeerAuthentication) -> str:
    """The ports whose mode ``policy`` sets, in words."""
    ports = [str(port) for port, mode in sorted(policy.port_modes.items()) if mode != Mode.UNSET]
    if len(ports) > 1:
        return f"ports {', '.join(ports[:-1])} and {ports[-1]}"
    return f"port {ports[0]}" if ports else ""
