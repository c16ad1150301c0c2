"""Pods by what policies can tell apart, so that a changed policy finds those it touches."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from troth.policy.scope import Scope, scope_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from troth.mesh.model import Pod
    from troth.policy.model import PeerAuthentication
    from troth.policy.resolve import PolicyIndex
    from troth.policy.verdict import Decision


class Workload:
    """Pods of one namespace with the same labels and ports: every policy decides alike for them.

    Attributes:
        uids: The pods.
        decision: What holds for them.
    """

    __slots__ = ("decision", "key", "labels", "namespace", "ports", "uids")

    def __init__(self, key: object, pod: Pod, index: PolicyIndex) -> None:
        self.key = key
        self.namespace = pod.namespace
        self.labels = pod.labels
        self.ports = tuple(port.number for port in pod.ports)
        self.uids: set[str] = set()
        self.decision: Decision = index.decide(self.namespace, self.labels, self.ports)

    def decide(self, index: PolicyIndex) -> bool:
        """Decide anew; whether it came out differently."""
        former = self.decision
        self.decision = index.decide(self.namespace, self.labels, self.ports)
        return self.decision is not former and self.decision != former


class Workloads:
    """All workloads of a mesh, by pod, by namespace and by label.

    Args:
        root_namespace: Where mesh-wide policies live.
    """

    def __init__(self, root_namespace: str) -> None:
        self._root_namespace = root_namespace
        self._of_pod: dict[str, Workload] = {}
        self._by_key: dict[object, Workload] = {}
        self._by_namespace: defaultdict[str, dict[object, Workload]] = defaultdict(dict)
        self._by_label: defaultdict[tuple[str, str, str], dict[object, Workload]] = defaultdict(
            dict
        )

    def put(self, pod: Pod, index: PolicyIndex) -> Workload:
        """The workload that a pod now is of."""
        key = (pod.namespace, frozenset(pod.labels.items()), pod.ports)
        former = self._of_pod.get(pod.uid)
        if former is not None:
            if former.key == key:
                return former
            self.drop(pod.uid)
        workload = self._by_key.get(key)
        if workload is None:
            workload = self._by_key[key] = Workload(key, pod, index)
            for place in self._places(workload):
                place[key] = workload
        workload.uids.add(pod.uid)
        self._of_pod[pod.uid] = workload
        return workload

    def drop(self, uid: str) -> None:
        """Forget a pod."""
        workload = self._of_pod.pop(uid, None)
        if workload is None:
            return
        workload.uids.remove(uid)
        if not workload.uids:
            del self._by_key[workload.key]
            for place in self._places(workload):
                del place[workload.key]

    def touched(self, policy: PeerAuthentication) -> Collection[Workload]:
        """All for which ``policy`` may count."""
        match scope_of(policy, self._root_namespace):
            case Scope.MESH:
                return self._by_key.values()
            case Scope.NAMESPACE:
                return self._by_namespace.get(policy.namespace, {}).values()
            case Scope.WORKLOAD:
                return self._selected(policy.namespace, policy.selector)
        return ()

    def _selected(self, namespace: str, selector: Mapping[str, str]) -> list[Workload]:
        fewest: Mapping[object, Workload] = min(
            (self._by_label.get((namespace, *label), {}) for label in selector.items()), key=len
        )
        return [each for each in fewest.values() if selector.items() <= each.labels.items()]

    def _places(self, workload: Workload) -> Iterator[dict[object, Workload]]:
        yield self._by_namespace[workload.namespace]
        for label in workload.labels.items():
            yield self._by_label[workload.namespace, *label]
