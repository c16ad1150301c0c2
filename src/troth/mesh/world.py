"""The world as one value, who is in the mesh, and its pods grouped by what policies can select."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from troth.identity.spiffe import TrustDomain
from troth.mesh.model import MESH_LABEL, Namespace, Pod, Service
from troth.policy.model import PeerAuthentication
from troth.policy.scope import Scope, scope_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from troth.policy.index import PolicyIndex
    from troth.policy.verdict import Decision

DEFAULT_ROOT_NAMESPACE = "istio-system"
"""Where mesh-wide policies live by default (Istio's ``meshConfig.rootNamespace``)."""

DEFAULT_HOME = "troth-system"
"""Where the controller and the node agents run and keep their objects."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a pod belongs in the mesh, and the one reason why."""

    in_mesh: bool
    why: str


class World(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known at one moment.

    Attributes:
        trust_domain: The trust domain of every identity in the mesh.
        root_namespace: Policies without a selector there are mesh-wide.
        namespaces: By name.
        pods: By UID.
        services: By ``NAMESPACE/NAME``.
        policies: Every valid PeerAuthentication, in no particular order.
    """

    trust_domain: TrustDomain
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    namespaces: Mapping[str, Namespace] = {}
    pods: Mapping[str, Pod] = {}
    services: Mapping[str, Service] = {}
    policies: tuple[PeerAuthentication, ...] = ()

    def membership(self, pod: Pod) -> Membership:
        """Whether ``pod`` is to be captured: its namespace opts in, the pod may opt out."""
        namespace = self.namespaces.get(pod.namespace, Namespace(name=pod.namespace))
        return membership(
            namespace, pod.labels, host_network=pod.host_network, static=bool(pod.kubelet_uid)
        )


def membership(
    namespace: Namespace,
    pod_labels: Mapping[str, str],
    *,
    host_network: bool = False,
    static: bool = False,
) -> Membership:
    """Whether a pod with ``pod_labels`` in ``namespace`` is in the mesh.

    The two `MESH_LABEL` rules decide, and ``spec.hostNetwork``: such a pod has no network namespace
    of its own to capture. A static pod has no service account, and so no identity.
    """
    if not namespace.in_mesh:
        return Membership(
            in_mesh=False, why=f"namespace {namespace.name} is not labelled {MESH_LABEL}: enabled"
        )
    if pod_labels.get(MESH_LABEL) == "disabled":
        return Membership(in_mesh=False, why=f"the pod is labelled {MESH_LABEL}: disabled")
    if host_network:
        return Membership(
            in_mesh=False, why="the pod is on its node's network (hostNetwork), so not captured"
        )
    if static:
        return Membership(
            in_mesh=False, why="the pod is a static one, without a service account to certify"
        )
    return Membership(
        in_mesh=True, why=f"namespace {namespace.name} is labelled {MESH_LABEL}: enabled"
    )


class PodGroup:
    """Pods of one namespace with the same labels and ports, so with the same policy decisions.

    Attributes:
        uids: The pods.
        decision: Their decision.
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
        """Decide again; return whether the decision has changed."""
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
        self._of_pod: dict[str, PodGroup] = {}
        self._by_key: dict[object, PodGroup] = {}
        self._by_namespace: defaultdict[str, dict[object, PodGroup]] = defaultdict(dict)
        self._by_label: defaultdict[tuple[str, str, str], dict[object, PodGroup]] = defaultdict(
            dict
        )

    def put(self, pod: Pod, index: PolicyIndex) -> PodGroup:
        """Add or update a pod; return its group."""
        key = (pod.namespace, frozenset(pod.labels.items()), pod.ports)
        former = self._of_pod.get(pod.uid)
        if former is not None:
            if former.key == key:
                return former
            self.drop(pod.uid)
        workload = self._by_key.get(key)
        if workload is None:
            workload = self._by_key[key] = PodGroup(key, pod, index)
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

    def touched(self, policy: PeerAuthentication) -> Collection[PodGroup]:
        """All groups that ``policy`` may affect."""
        match scope_of(policy, self._root_namespace):
            case Scope.MESH:
                return self._by_key.values()
            case Scope.NAMESPACE:
                return self._by_namespace.get(policy.namespace, {}).values()
            case Scope.WORKLOAD:
                return self._selected(policy.namespace, policy.selector)
        return ()

    def _selected(self, namespace: str, selector: Mapping[str, str]) -> list[PodGroup]:
        fewest: Mapping[object, PodGroup] = min(
            (self._by_label.get((namespace, *label), {}) for label in selector.items()), key=len
        )
        return [each for each in fewest.values() if selector.items() <= each.labels.items()]

    def _places(self, workload: PodGroup) -> Iterator[dict[object, PodGroup]]:
        yield self._by_namespace[workload.namespace]
        for label in workload.labels.items():
            yield self._by_label[workload.namespace, *label]
