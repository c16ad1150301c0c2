"""An index of policies: which of them apply to a workload, and what they decide.

The rules are in `troth.policy.scope`; the index makes lookups cheap. A lookup reads only the
policies of the root namespace and of the workload's own, and of those with a selector only the ones
that share a label with the workload. `PolicyChanges`, the difference between two sets of policies,
updates an index.
"""

from __future__ import annotations

from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

import msgspec

from troth.policy.model import Mode, PeerAuthentication
from troth.policy.scope import NARROWEST_FIRST, Scope, by_age
from troth.policy.verdict import DecidedBy, Decision, PolicyVerdict, PortVerdict, explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Label = tuple[str, str]
    from collections.abc import Sequence


class NamespacePolicies:
    """The policies of one namespace, indexed by the labels they select. Immutable.

    Args:
        policies: In any order.
        by_label: Those with a selector, each under one of its labels; computed if not given.

    Attributes:
        policies: All of them, oldest first.
        oldest_without_selector: The one that counts for the whole namespace or mesh.
    """

    def __init__(
        self,
        policies: Iterable[PeerAuthentication] = (),
        by_label: Mapping[Label, tuple[PeerAuthentication, ...]] | None = None,
    ) -> None:
        self.policies = sorted(policies, key=by_age)
        self.oldest_without_selector = next((p for p in self.policies if not p.selector), None)
        if by_label is None:
            files: dict[Label, tuple[PeerAuthentication, ...]] = {}
            for policy in self.policies:
                _file(files, policy)
            by_label = files
        self._by_label = by_label

    def changed(
        self, removed: Iterable[PeerAuthentication], added: Iterable[PeerAuthentication]
    ) -> Self:
        """A copy without ``removed`` and with ``added``.

        The cost is that of the difference, plus copying two tables of references.
        """
        policies, by_label = self.policies.copy(), dict(self._by_label)
        for policy in removed:
            policies.remove(policy)
            _unfile(by_label, policy)
        for policy in added:
            policies.append(policy)
            _file(by_label, policy)
        return type(self)(policies, by_label)

    def oldest_matching(self, labels: Mapping[str, str]) -> PeerAuthentication | None:
        """The oldest policy whose selector matches ``labels``."""
        return min(self._first_matches(labels), key=by_age, default=None)

    def matching(self, labels: Mapping[str, str]) -> list[PeerAuthentication]:
        """All policies whose selector matches ``labels``, oldest first."""
        found = (
            policy
            for label in labels.items()
            for policy in self._by_label.get(label, ())
            if policy.selector.items() <= labels.items()
        )
        return sorted(found, key=by_age)

    def _first_matches(self, labels: Mapping[str, str]) -> Iterator[PeerAuthentication]:
        for label in labels.items():
            for policy in self._by_label.get(label, ()):
                if policy.selector.items() <= labels.items():
                    yield policy
                    break  # the others under this label are younger


def _file(
    by_label: dict[Label, tuple[PeerAuthentication, ...]], policy: PeerAuthentication
) -> None:
    """Index a policy under one of its labels: a workload without that label can't match."""
    if not policy.selector:
        return
    # The label with the fewest policies so far, so that a label all share doesn't collect them.
    label = min(policy.selector.items(), key=lambda label: (len(by_label.get(label, ())), label))
    by_label[label] = tuple(sorted((*by_label.get(label, ()), policy), key=by_age))


def _unfile(
    by_label: dict[Label, tuple[PeerAuthentication, ...]], policy: PeerAuthentication
) -> None:
    for label in policy.selector.items():
        there = by_label.get(label, ())
        if policy in there:
            by_label[label] = tuple(other for other in there if other != policy)
            if not by_label[label]:
                del by_label[label]
            return


_DEFAULT_MODE = Mode.PERMISSIVE
_DEFAULT = DecidedBy(scope=Scope.DEFAULT)

_DECISIONS_KEPT = 4096
"""Bounded, because a connection may name any port; most workloads share their ports anyway."""


class PolicyIndex:
    """All policies of a mesh, indexed for lookups by workload. Immutable.

    Args:
        policies: In any order; no two may have the same `PeerAuthentication.key`.
        root_namespace: Where mesh-wide policies live (``MeshConfig.rootNamespace``).
        others: Indexed policies of other namespaces, which ``policies`` must not have any of.
    """

    def __init__(
        self,
        policies: Iterable[PeerAuthentication],
        root_namespace: str,
        others: Mapping[str, NamespacePolicies] = MappingProxyType({}),
    ) -> None:
        self._root_namespace = root_namespace
        self._namespaces = dict(others)
        for name, those in _by_namespace(policies).items():
            self._namespaces[name] = NamespacePolicies(those)
        self._root = self._of(root_namespace)
        self._decisions: dict[tuple[int, ...], Decision] = {}

    def changed(self, changes: PolicyChanges) -> Self:
        """The index after ``changes``; unaffected parts are shared."""
        namespaces = self._namespaces.copy()
        removed, added = _by_namespace(changes.removed), _by_namespace(changes.added)
        for name in removed.keys() | added.keys():
            those = self._of(name).changed(removed.get(name, ()), added.get(name, ()))
            namespaces[name] = those
            if not those.policies:
                del namespaces[name]
        return type(self)((), self._root_namespace, namespaces)

    def decide(
        self, namespace: str, labels: Mapping[str, str], ports: Iterable[int] = ()
    ) -> Decision:
        """Decide a workload's effective modes without reasons: cheap enough for every pod.

        Args:
            namespace: The workload's.
            labels: The workload's (its pods').
            ports: The workload's own, not its services'; the answer names each of them.
        """
        heads = self._heads(namespace, labels)
        asked = (*map(id, heads.values()), *ports)
        decision = self._decisions.get(asked)
        if decision is None:
            if len(self._decisions) >= _DECISIONS_KEPT:
                self._decisions.clear()
            decision = self._decisions[asked] = _decision(heads, asked[len(heads) :])
        return decision

    def effective(
        self, namespace: str, labels: Mapping[str, str], ports: Iterable[int] = ()
    ) -> PolicyVerdict:
        """Decide a workload's effective modes and say why, policy by policy.

        Arguments and modes are those of `decide`.
        """
        heads = self._heads(namespace, labels)
        decision = _decision(heads, ports)
        looked_at = list(self._root.policies)
        if namespace != self._root_namespace:
            looked_at += self._of(namespace).policies
        return PolicyVerdict(
            mode=decision.mode,
            decided_by=decision.decided_by,
            ports=decision.ports,
            considered=explain(
                looked_at, heads, decision, labels=labels, root_namespace=self._root_namespace
            ),
        )

    def _of(self, namespace: str) -> NamespacePolicies:
        return self._namespaces.get(namespace, _NO_POLICIES)

    def _heads(
        self, namespace: str, labels: Mapping[str, str]
    ) -> dict[Scope, PeerAuthentication | None]:
        """The policy that counts in each scope for a workload."""
        own = _NO_POLICIES if namespace == self._root_namespace else self._of(namespace)
        return {
            Scope.MESH: self._root.oldest_without_selector,
            Scope.NAMESPACE: own.oldest_without_selector,
            Scope.WORKLOAD: own.oldest_matching(labels),
        }


def _by_namespace(
    policies: Iterable[PeerAuthentication],
) -> dict[str, list[PeerAuthentication]]:
    found: dict[str, list[PeerAuthentication]] = defaultdict(list)
    for policy in policies:
        found[policy.namespace].append(policy)
    return found


_NO_POLICIES = NamespacePolicies()


def _decision(heads: Mapping[Scope, PeerAuthentication | None], ports: Iterable[int]) -> Decision:
    mode, decided_by = _DEFAULT_MODE, _DEFAULT
    for scope in NARROWEST_FIRST:
        head = heads[scope]
        if head is not None and head.mode is not Mode.UNSET:
            mode, decided_by = head.mode, DecidedBy(scope=scope, policy=head.key)
            break
    rest = PortVerdict(
        mode=mode,
        decided_by=decided_by,
        why=f"no portLevelMtls names it, so the workload's mode holds: {mode} from {decided_by}",
    )
    verdicts = dict.fromkeys(ports, rest)
    if (policy := heads[Scope.WORKLOAD]) is not None:
        verdicts |= {port: _entry(policy, entry, rest) for port, entry in policy.port_modes.items()}
    return Decision(mode=mode, decided_by=decided_by, ports=dict(sorted(verdicts.items())))


def _entry(policy: PeerAuthentication, entry: Mode, rest: PortVerdict) -> PortVerdict:
    """The verdict of a port that ``policy`` names."""
    if entry is Mode.UNSET:
        return PortVerdict(
            mode=rest.mode,
            decided_by=rest.decided_by,
            why=f"portLevelMtls of {policy.key} leaves it UNSET, so the workload's mode holds: "
            f"{rest.mode} from {rest.decided_by}",
        )
    return PortVerdict(
        mode=entry,
        decided_by=DecidedBy(scope=Scope.WORKLOAD, policy=policy.key),
        why=f"portLevelMtls of {policy.key} sets {entry}",
    )


class PolicyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """The difference between two sets of policies; an edited policy is in both fields.

    Attributes:
        removed: Only in the old set.
        added: Only in the new set.
    """

    removed: tuple[PeerAuthentication, ...] = ()
    added: tuple[PeerAuthentication, ...] = ()

    @classmethod
    def between(
        cls, before: Sequence[PeerAuthentication], after: Sequence[PeerAuthentication]
    ) -> Self:
        """Compare two sets; cheap if they share most of their policies as objects."""
        start = _shared(before, after)
        before, after = before[start:], after[start:]
        end = _shared(before[::-1], after[::-1])
        before, after = before[: len(before) - end], after[: len(after) - end]
        kept, known = {id(policy) for policy in after}, {id(policy) for policy in before}
        removed = [policy for policy in before if id(policy) not in kept]
        added = [policy for policy in after if id(policy) not in known]
        # Most policies that were parsed again are equal.
        former = {policy.key: policy for policy in removed}
        same = {policy.key for policy in added if former.get(policy.key) == policy}
        return cls(
            removed=tuple(policy for policy in removed if policy.key not in same),
            added=tuple(policy for policy in added if policy.key not in same),
        )

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)

    @property
    def all(self) -> tuple[PeerAuthentication, ...]:
        """Every policy that is in only one of the sets."""
        return self.removed + self.added


def _shared(one: Sequence[PeerAuthentication], other: Sequence[PeerAuthentication]) -> int:
    """The length of their common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a is not b), min(len(one), len(other)))
