"""Policies that are valid but probably a mistake: ones that never decide anything."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from troth.errors import Problem
from troth.policy.index import NamespacePolicies
from troth.policy.model import KIND
from troth.policy.scope import scope_of, why_before
from troth.syntax import label_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from troth.policy.model import PeerAuthentication


def lint_policies(
    policies: Iterable[PeerAuthentication],
    *,
    root_namespace: str,
    workloads: Iterable[tuple[str, Mapping[str, str]]] = (),
) -> tuple[Problem, ...]:
    """Warn of policies that have no effect, and of pairs whose order only their names decide.

    Args:
        policies: In any order; no two may have the same `PeerAuthentication.key`.
        root_namespace: Where mesh-wide policies live.
        workloads: Namespace and labels of the known ones. Policies without a creationTimestamp
            and with different selectors conflict only on a workload, so without workloads that
            isn't found.

    Returns:
        Warnings, by the policy's namespace and name.
    """
    by_namespace: dict[str, list[PeerAuthentication]] = defaultdict(list)
    for policy in policies:
        by_namespace[policy.namespace].append(policy)
    label_sets: dict[str, set[frozenset[tuple[str, str]]]] = defaultdict(set)
    for namespace, labels in workloads:
        label_sets[namespace].add(frozenset(labels.items()))
    findings: list[Problem] = []
    for namespace, unordered in by_namespace.items():
        those = NamespacePolicies(unordered)
        if namespace == root_namespace:
            findings += _selecting_in_root(those.policies, root_namespace)
            findings += _always_shadowed(those, [p for p in those.policies if not p.selector])
        else:
            findings += _always_shadowed(those, those.policies)
            findings += _meeting_on_workloads(those, label_sets[namespace])
    return tuple(sorted(findings, key=lambda finding: finding.subject.split("/")))


def _warning(policy: PeerAuthentication, path: str, found: str, wanted: str) -> Problem:
    return Problem.warning(f"{KIND} {policy.key}", path, found, wanted, location=policy.location)


def _selecting_in_root(
    policies: Iterable[PeerAuthentication], root_namespace: str
) -> Iterator[Problem]:
    for policy in policies:
        if scope_of(policy, root_namespace) is None:
            yield _warning(
                policy,
                "spec.selector",
                f"a policy with a selector in the root namespace ({root_namespace}) holds for no "
                "workload",
                "move it to the workload's namespace, or leave the selector out to make it "
                "mesh-wide",
            )


def _always_shadowed(
    those: NamespacePolicies, policies: Iterable[PeerAuthentication]
) -> Iterator[Problem]:
    for policy in policies:
        # A workload that matches all labels of this selector also matches a subset of them.
        head = (
            those.oldest_matching(policy.selector)
            if policy.selector
            else those.oldest_without_selector
        )
        if head is not None and head is not policy:
            yield _warning(
                policy,
                "spec.selector" if policy.selector else "",
                f"never has an effect, because {head.key} holds wherever it does and only one "
                f"counts: {why_before(head, policy)}",
                "merge the two into one policy, or narrow the selector of the one that counts"
                if policy.selector
                else "merge the two into one policy",
            )


def _meeting_on_workloads(
    those: NamespacePolicies, label_sets: Iterable[frozenset[tuple[str, str]]]
) -> Iterator[Problem]:
    by_name = {
        policy.key
        for policy in those.policies
        if policy.created is None and policy is those.oldest_matching(policy.selector)
    }
    pairs = {}
    for labels in label_sets:
        matching = [each for each in those.matching(dict(labels)) if each.key in by_name]
        for loser in matching[1:]:
            pairs[matching[0].key, loser.key] = (matching[0], loser)
    for _, (head, loser) in sorted(pairs.items()):
        both = ", ".join(
            label_text(key, value) for key, value in {**head.selector, **loser.selector}.items()
        )
        yield _warning(
            loser,
            "spec.selector",
            f"also selects workloads of {head.key} (those with {both}), and has no effect on "
            f"them: {why_before(head, loser)}",
            "make the two selectors exclude each other, or merge the two into one policy",
        )
