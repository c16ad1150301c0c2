"""The status of a PeerAuthentication, from what is stored and what the nodes report: pure.

``Accepted`` says whether the policy can be used, with all its problems; ``Enforced``, whether every
node has put it in force. They are in ``status.conditions`` in the form of Istio's other tools
(``IstioCondition``), next to those of others.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from troth.cluster.contract import SILENCE, policy_digest
from troth.errors import Problem, Severity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from troth.cluster.contract import NodeReport, PodTrouble

ACCEPTED = "Accepted"
ENFORCED = "Enforced"

_MOST_NAMED = 3
_REMEMBERED = 256
_LONGEST_MESSAGE = 1024


class Truth(StrEnum):
    """``status`` of a condition."""

    TRUE = "True"
    FALSE = "False"


class PolicyCondition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One entry of ``status.conditions``.

    Attributes:
        type: ``Accepted`` or ``Enforced``.
        status: Whether it is true.
        reason: Why, as one word for programs.
        message: Why, for people.
        observed_generation: ``metadata.generation`` of the policy at that time.
    """

    type: str
    status: Truth
    reason: str
    message: str
    observed_generation: int


class StoredPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A PeerAuthentication object in the cluster, valid or not.

    Attributes:
        uid: ``metadata.uid``.
        generation: ``metadata.generation``: changes with the spec only.
        key: ``NAMESPACE/NAME``.
        namespace: ``metadata.namespace``; empty for a policy that may apply in all of them.
        was_enforced: Its status already says that every node enforced this generation.
        is_strict: It refuses plaintext at some port.
        problems: Its problems, including warnings.
    """

    uid: str
    generation: int
    key: str = ""
    namespace: str = ""
    was_enforced: bool = False
    is_strict: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether an error keeps it from being used."""
        return any(problem.severity is Severity.ERROR for problem in self.problems)


class PolicyHistory:
    """Recent sets of policies by their digests, to tell how far a node is."""

    def __init__(self) -> None:
        self._sets: dict[str, Mapping[str, int]] = {}

    def note(self, policies: Iterable[StoredPolicy]) -> None:
        """Record the set that is stored now."""
        generations = {policy.uid: policy.generation for policy in policies}
        digest = policy_digest(generations.items())
        self._sets.pop(digest, None)
        self._sets[digest] = generations
        while len(self._sets) > _REMEMBERED:
            del self._sets[next(iter(self._sets))]

    def generation(self, digest: str, uid: str) -> int | None:
        """The generation of a policy in the set; None if it isn't in it, or the set is unknown."""
        return self._sets.get(digest, {}).get(uid)


def conditions(
    policy: StoredPolicy,
    reports: Mapping[str, NodeReport | None],
    history: PolicyHistory,
    silent: Collection[str] = (),
) -> tuple[PolicyCondition, PolicyCondition]:
    """``Accepted`` and ``Enforced`` of one policy.

    Args:
        policy: The stored object.
        reports: By node; None for one that can't be read.
        history: Including the current set.
        silent: The nodes whose agents are silent.
    """
    behind = {
        name: why
        for name, report in reports.items()
        if (why := SILENCE if name in silent else _behind(policy, report, history)) is not None
    }
    late = [name for name, report in reports.items() if report and report.plugin is False]
    unmarked = [
        each
        for name, report in reports.items()
        if report and name not in silent
        for each in _pods_of(policy, report.unmarked)
    ]
    return _accepted(policy), _enforced(policy, len(reports), behind, late, unmarked)


def _accepted(policy: StoredPolicy) -> PolicyCondition:
    messages = "; ".join(_told(problem) for problem in policy.problems)
    if policy.is_refused:
        reason = "Invalid"
        messages += ". What was last valid of it stays in force where it is known"
    else:
        reason = "ValidWithWarnings" if policy.problems else "Valid"
    return PolicyCondition(
        type=ACCEPTED,
        status=Truth.FALSE if policy.is_refused else Truth.TRUE,
        reason=reason,
        message=_bounded(messages),
        observed_generation=policy.generation,
    )


def _enforced(
    policy: StoredPolicy,
    nodes: int,
    behind: Mapping[str, str],
    late: Collection[str],
    unmarked: Collection[str],
) -> PolicyCondition:
    """The condition.

    Args:
        policy: The stored object.
        nodes: How many there are.
        behind: Those that don't enforce it, with the reasons.
        late: Those where pods start before they are captured.
        unmarked: Pods that enforce it though their clients can't be told, with the reasons.
    """
    done = not policy.is_refused and not behind and bool(nodes)
    if policy.is_refused:
        reason, message = "NotAccepted", "this version is not enforced anywhere"
    else:
        reason = "AllNodes" if done else "NotAllNodes" if nodes else "NoNodes"
        message = f"{nodes - len(behind)} of {nodes} nodes"
        if behind:
            message += f"; waiting for {_shown(behind)}"
        if policy.is_strict and late:
            message += (
                f"; on {len(late)} without the CNI plugin ({_listed(late)}), pods may take "
                "plaintext between their start and their capture"
            )
        if unmarked:
            message += f"; clients can't be told of the capture of {_listed(unmarked)}"
    return PolicyCondition(
        type=ENFORCED,
        status=Truth.TRUE if done else Truth.FALSE,
        reason=reason,
        message=_bounded(message),
        observed_generation=policy.generation,
    )


def _behind(policy: StoredPolicy, report: NodeReport | None, history: PolicyHistory) -> str | None:
    """Why a node doesn't enforce a policy, empty if it is just not ready yet; None if it does.

    Joining pods delay the condition only until the policy has been in force once: where pods come
    and go, some are always joining, and the policy would seem to be lifted each time.
    """
    if report is None:
        return "its report cannot be read"
    if history.generation(report.policies, policy.uid) != policy.generation:
        return report.trouble
    if uncaptured := _pods_of(policy, report.uncaptured):
        return f"not captured: {_listed(uncaptured)}"
    joining = report.joining & {policy.namespace} if policy.namespace else report.joining
    if joining and not policy.was_enforced:
        return f"pods of {_listed(joining)} have just joined the mesh"
    return None


def _pods_of(policy: StoredPolicy, troubles: Mapping[str, PodTrouble]) -> list[str]:
    """Those of these pods that a policy applies to, each with its problem."""
    return [
        f"pod {name} ({trouble.why})"
        for name, trouble in troubles.items()
        if policy.key in trouble.policies
    ]


def was_enforced(present: Iterable[Mapping[str, Any]], generation: int) -> bool:
    """Whether ``status.conditions`` say that every node enforced a generation."""
    return any(
        (each.get("type"), each.get("status")) == (ENFORCED, Truth.TRUE)
        and each.get("observedGeneration") == generation
        for each in present
        if isinstance(each, dict)
    )


def merged(
    present: Sequence[Mapping[str, Any]], wanted: Iterable[PolicyCondition], *, now: datetime
) -> list[dict[str, Any]] | None:
    """``status.conditions`` with ours updated, or None if they are already up to date.

    Args:
        present: The existing conditions, of all writers.
        wanted: Ours.
        now: ``lastTransitionTime`` of those whose status changes.
    """
    result = [dict(each) for each in present if isinstance(each, dict)]
    for condition in wanted:
        fields = msgspec.to_builtins(condition)
        old = next((each for each in result if each.get("type") == condition.type), None)
        if old is None:
            old = {}
            result.append(old)
        if old.get("status") != fields["status"] or "lastTransitionTime" not in old:
            fields["lastTransitionTime"] = f"{now:%FT%TZ}"
        old.update(fields)
    return None if result == list(present) else result


def _told(problem: Problem) -> str:
    path = f"{problem.path}: " if problem.path else ""
    return f"{path}{problem.found} ({problem.wanted})"


def _shown(nodes: Mapping[str, str]) -> str:
    """The names of a few nodes, each with its problem if it has one."""
    return _listed(f"{name} ({why})" if why else name for name, why in sorted(nodes.items()))


def _listed(unordered: Iterable[str]) -> str:
    names = sorted(unordered)
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _bounded(message: str) -> str:
    if len(message) <= _LONGEST_MESSAGE:
        return message
    return message[: _LONGEST_MESSAGE - 3] + "..."
