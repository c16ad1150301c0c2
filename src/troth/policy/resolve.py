"""Find the policies that hold for a workload and decide the effective mode of its ports.

The rules are in `troth.policy.scope`; this is the index that makes asking cheap. Only the
policies of the root namespace and of the workload's own are looked at, and of those with a
selector only the ones that share a label with the workload.
"""

from __future__ import annotations

from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from troth.policy.explain import explain
from troth.policy.model import Mode, PeerAuthentication
from troth.policy.namespace import NamespacePolicies
from troth.policy.scope import NARROWEST_FIRST, Scope
from troth.policy.verdict import DecidedBy, Decision, PortVerdict, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from troth.policy.changes import PolicyChanges

_DEFAULT_MODE = Mode.PERMISSIVE
_DEFAULT = DecidedBy(scope=Scope.DEFAULT)

_DECISIONS_KEPT = 4096
"""Most workloads share theirs with others; ports that connections name may be any."""


class PolicyIndex:
    """All policies of a mesh, arranged for asking what holds for a workload.

    It does not change; `changed` makes another one.

    Args:
        policies: In any order; no two may have the same `PeerAuthentication.key`.
        root_namespace: Where mesh-wide policies live (``MeshConfig.rootNamespace``).
        others: Policies of namespaces that ``policies`` has none of, already arranged.
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
        """The index of the policies after ``changes``; it shares what these don't touch."""
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
        """Decide a workload's effective modes, without the reasons: cheap enough for every pod.

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
    ) -> Verdict:
        """Decide a workload's effective modes and say why, policy by policy.

        Takes the same arguments as `decide` and decides the same.
        """
        heads = self._heads(namespace, labels)
        decision = _decision(heads, ports)
        looked_at = list(self._root.policies)
        if namespace != self._root_namespace:
            looked_at += self._of(namespace).policies
        return Verdict(
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
        """The one policy that each scope puts forward for a workload."""
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
