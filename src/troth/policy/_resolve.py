"""Find the policies that hold for a workload and decide the effective mode of its ports.

The rules are in `troth.policy._scope`; this is the index that makes asking cheap. Only the
policies of the root namespace and of the workload's own are looked at, and of those with a
selector only the ones that share a label with the workload.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from troth.policy._explain import explain
from troth.policy._model import Mode, PeerAuthentication
from troth.policy._scope import NARROWEST_FIRST, Scope, by_age
from troth.policy._verdict import DecidedBy, Decision, PortVerdict, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_DEFAULT_MODE = Mode.PERMISSIVE
_DEFAULT = DecidedBy(scope=Scope.DEFAULT)


class PolicyIndex:
    """All policies of a mesh, arranged for asking what holds for a workload.

    It does not change; a new set of policies makes a new index.

    Args:
        policies: In any order; no two may have the same `PeerAuthentication.key`.
        root_namespace: Where mesh-wide policies live (``MeshConfig.rootNamespace``).
    """

    def __init__(self, policies: Iterable[PeerAuthentication], root_namespace: str) -> None:
        by_namespace: dict[str, list[PeerAuthentication]] = defaultdict(list)
        for policy in policies:
            by_namespace[policy.namespace].append(policy)
        self._root_namespace = root_namespace
        self._namespaces = {name: NamespacePolicies(those) for name, those in by_namespace.items()}
        self._root = self._namespaces.get(root_namespace, _NO_POLICIES)

    def decide(
        self, namespace: str, labels: Mapping[str, str], ports: Iterable[int] = ()
    ) -> Decision:
        """Decide a workload's effective modes, without the reasons: cheap enough for every pod.

        Args:
            namespace: The workload's.
            labels: The workload's (its pods').
            ports: The workload's own, not its services'; the answer names each of them.
        """
        return _decision(self._heads(namespace, labels), ports)

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


class NamespacePolicies:
    """The policies of one namespace, oldest first, found by the labels they select.

    Attributes:
        policies: All of them.
        oldest_without_selector: The one that counts for the whole namespace or mesh.
    """

    def __init__(self, policies: Iterable[PeerAuthentication]) -> None:
        self.policies = sorted(policies, key=by_age)
        self.oldest_without_selector = next((p for p in self.policies if not p.selector), None)
        # A policy is filed under its rarest label: a workload without that can't match.
        uses = Counter(label for policy in self.policies for label in policy.selector.items())
        self._by_label: dict[tuple[str, str], list[PeerAuthentication]] = defaultdict(list)
        for policy in self.policies:
            if policy.selector:
                rarest = min(policy.selector.items(), key=lambda label: (uses[label], label))
                self._by_label[rarest].append(policy)

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


_NO_POLICIES = NamespacePolicies(())


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
