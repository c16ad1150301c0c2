"""A cluster's pods and services, each change of an object taken in for what it touches.

What they hold always equals what `pods_by_uid` and `resolve_services` make of all objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.cluster.world import NodeTopology, resolve_services, with_own_addresses
from troth.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.cluster.world import ClusterService, EndpointSlice
    from troth.kube.reflector import Changes
    from troth.mesh.model import Pod, Service


class ClusterPods:
    """All pods, each address with the one that has it now.

    Args:
        node: As of `pods_by_uid`.

    Attributes:
        by_uid: The pods.
    """

    def __init__(self, node: str = "") -> None:
        self._node = node
        self.by_uid: Table[Pod] = Table()
        self._by_key: dict[str, Pod] = {}
        self._claimants: dict[str, tuple[Pod, ...]] = {}

    def apply(self, changes: Changes[Pod]) -> None:
        """Take changes in; their keys are the pods' names."""
        gone: dict[str, Pod] = {}
        touched: dict[str, Pod] = {}
        addresses: set[str] = set()
        for key in (*changes.deleted, *changes.upserted):
            if (former := self._by_key.pop(key, None)) is not None:
                gone[former.uid] = former
                addresses |= self._withdraw(former)
        for key, pod in changes.upserted.items():
            self._by_key[key] = touched[pod.uid] = pod
            addresses |= self._claim(pod)
        for address in addresses:
            touched |= {pod.uid: pod for pod in self._claimants.get(address, ())}
        self.by_uid = self.by_uid.changed(
            {
                uid: with_own_addresses(pod, self._claimants, node=self._node)
                for uid, pod in touched.items()
            },
            gone.keys() - touched.keys(),
        )

    def _claim(self, pod: Pod) -> set[str]:
        addresses = _claimed(pod)
        for address in addresses:
            self._claimants[address] = (*self._claimants.get(address, ()), pod)
        return addresses

    def _withdraw(self, pod: Pod) -> set[str]:
        addresses = _claimed(pod)
        for address in addresses:
            others = tuple(each for each in self._claimants[address] if each is not pod)
            if others:
                self._claimants[address] = others
            else:
                del self._claimants[address]
        return addresses


def _claimed(pod: Pod) -> set[str]:
    return set() if pod.host_network else set(pod.addresses)


class ClusterServices:
    """All Services with the endpoints that the pods of one node should use.

    Attributes:
        by_key: The Services by ``NAMESPACE/NAME``.
    """

    def __init__(self) -> None:
        self.by_key: Table[Service] = Table()
        self._node = NodeTopology()
        self._services: dict[str, ClusterService] = {}
        self._slices: dict[str, EndpointSlice] = {}
        self._by_service: dict[str, dict[str, EndpointSlice]] = {}

    def apply_services(self, changes: Changes[ClusterService]) -> None:
        """Take changed Services in."""
        for key in changes.deleted:
            del self._services[key]
        self._services |= changes.upserted
        self._resolve((*changes.deleted, *changes.upserted))

    def apply_slices(self, changes: Changes[EndpointSlice]) -> None:
        """Take changed EndpointSlices in."""
        touched = set()
        for key in (*changes.deleted, *changes.upserted):
            if (former := self._slices.pop(key, None)) is not None:
                touched.add(former.service)
                del self._by_service[former.service][key]
        for key, each in changes.upserted.items():
            touched.add(each.service)
            self._slices[key] = each
            self._by_service.setdefault(each.service, {})[key] = each
        for service in touched:
            if not self._by_service[service]:
                del self._by_service[service]
        self._resolve(touched)

    def move(self, node: NodeTopology) -> None:
        """Choose endpoints as another node should, or as this one in another zone."""
        if node != self._node:
            self._node = node
            self._resolve(self._services)

    def _resolve(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        known = [self._services[key] for key in keys if key in self._services]
        slices = [each for key in keys for _, each in sorted(self._by_service.get(key, {}).items())]
        resolved = resolve_services(known, slices, self._node)
        self.by_key = self.by_key.changed(resolved, [key for key in keys if key not in resolved])
