"""Turns a cluster's objects into the world of a mesh, with Services balanced as by kube-proxy.

For captured pods Envoy balances Services instead of kube-proxy, so it must choose among the same
endpoints. These are the rules of Kubernetes 1.35's kube-proxy (``CategorizeEndpoints``), applied to
each port and IP family separately:

==================================  ======================================================
the Service                         its endpoints on a node
==================================  ======================================================
has ready ones                      the ready ones; if all of them have hints, only those
                                    for this node, else those for this zone, if there are
has only terminating ones           those that still serve, wherever they are
``internalTrafficPolicy: Local``    the same, but only of this node's, whatever the hints
==================================  ======================================================

Neither that policy nor ``externalTrafficPolicy`` affects pods that use a load balancer's address or
an external IP.

The EndpointSlice says whether an endpoint is ready: its controller has taken the pod's readiness
and ``publishNotReadyAddresses`` into account, and has resolved named ports and selectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from troth.errors import Problem
from troth.mesh.model import Endpoint, Namespace, Pod, Protocol, Service, ServicePort
from troth.mesh.world import DEFAULT_ROOT_NAMESPACE, World
from troth.policy.model import PeerAuthentication
from troth.table import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from troth.identity.spiffe import TrustDomain
    from troth.kube.reflector import Changes

_NEVER = datetime.min.replace(tzinfo=UTC)


class Family(StrEnum):
    """The kinds of addresses of an EndpointSlice (``addressType``), except FQDN."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    @classmethod
    def of(cls, address: str) -> Family:
        """The family of an IP address."""
        return cls.IPV6 if ":" in address else cls.IPV4


class NodeTopology(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a Node that matter to balancing.

    Attributes:
        name: Its name.
        zone: Its label ``topology.kubernetes.io/zone``; empty if it has none.
    """

    name: str = ""
    zone: str = ""


class ClusterService(msgspec.Struct, frozen=True, kw_only=True):
    """A Service as specified; its endpoints are in EndpointSlices.

    Attributes:
        load_balancer_ips: See `troth.mesh.model.Service`.
        external_ips: See `troth.mesh.model.Service`.
        ports: Without endpoints.
        only_own_node: ``internalTrafficPolicy: Local``.
        client_ip_affinity: See `troth.mesh.model.Service`.
    """

    namespace: str
    name: str
    cluster_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    only_own_node: bool = False
    client_ip_affinity: bool = False

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class SliceEndpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One endpoint of an EndpointSlice.

    Attributes:
        node: Where it is; empty if unknown.
        for_zones: The zones in its hints (``hints.forZones``).
        for_nodes: The nodes in its hints (``hints.forNodes``).
    """

    address: str
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    for_zones: frozenset[str] = frozenset()
    for_nodes: frozenset[str] = frozenset()


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True):
    """An EndpointSlice (``discovery.k8s.io/v1``).

    Attributes:
        service: ``NAMESPACE/NAME`` of the Service whose endpoints it holds.
        family: The family of all its addresses.
        ports: Numbers by the Service's port name and protocol.
        endpoints: Each has all of the ports.
    """

    service: str
    family: Family = Family.IPV4
    ports: Mapping[tuple[str, Protocol], int] = {}
    endpoints: tuple[SliceEndpoint, ...] = ()


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster at one moment, as seen from one of its nodes.

    Attributes:
        namespaces: By name.
        pods: By UID.
        services: By ``NAMESPACE/NAME``, with the endpoints that the node should use.
        policies: Every valid PeerAuthentication; for a refused one, its last good version.
        stored_policies: UID and generation of every PeerAuthentication, including refused ones.
        problems: The problems of all objects.
    """

    namespaces: Mapping[str, Namespace] = {}
    pods: Mapping[str, Pod] = {}
    services: Mapping[str, Service] = {}
    policies: tuple[PeerAuthentication, ...] = ()
    stored_policies: frozenset[tuple[str, int]] = frozenset()
    problems: tuple[Problem, ...] = ()

    def world(
        self, trust_domain: TrustDomain, *, root_namespace: str = DEFAULT_ROOT_NAMESPACE
    ) -> World:
        """The world of a mesh with this trust domain and root namespace."""
        return World(
            trust_domain=trust_domain,
            root_namespace=root_namespace,
            namespaces=self.namespaces,
            pods=self.pods,
            services=self.services,
            policies=self.policies,
        )


def pods_by_uid(pods: Iterable[Pod], *, node: str = "") -> dict[str, Pod]:
    """Pods by their UID, each address with the one pod that has it now.

    A new pod can get an address while the old one's object still has it. Then the address belongs
    to the pod that isn't terminating, or else started last; otherwise clients would expect the
    wrong identity there. Kubelets write addresses and times, and one of them may lie: for its own
    pods a node trusts their objects, whatever those of other nodes' pods claim.

    Args:
        pods: As in their objects.
        node: The node whose view it is; nobody's if empty.
    """
    by_uid = {pod.uid: pod for pod in pods}
    claimants: dict[str, list[Pod]] = {}
    for pod in by_uid.values():
        for address in () if pod.host_network else pod.addresses:
            claimants.setdefault(address, []).append(pod)
    return {uid: with_own_addresses(pod, claimants, node=node) for uid, pod in by_uid.items()}


def with_own_addresses(
    pod: Pod, claimants: Mapping[str, Collection[Pod]], *, node: str = ""
) -> Pod:
    """A pod without the addresses that another one has by now.

    Args:
        pod: As in its object.
        claimants: By address, all pods whose objects have it.
        node: See `pods_by_uid`.
    """
    if pod.host_network or all(len(claimants[address]) == 1 for address in pod.addresses):
        return pod

    def claim(pod: Pod) -> tuple[bool, bool, datetime, str]:
        return not pod.terminating, bool(node) and pod.node == node, pod.started or _NEVER, pod.uid

    own = tuple(address for address in pod.addresses if max(claimants[address], key=claim) is pod)
    return msgspec.structs.replace(pod, addresses=own)


def resolve_services(
    services: Iterable[ClusterService], slices: Iterable[EndpointSlice], node: NodeTopology
) -> dict[str, Service]:
    """Give each Service the endpoints that pods of ``node`` should use.

    Args:
        services: All Services.
        slices: All EndpointSlices.
        node: The node; without a name topology is ignored.

    Returns:
        By ``NAMESPACE/NAME``.
    """
    by_service: dict[str, list[EndpointSlice]] = {}
    for each in slices:
        by_service.setdefault(each.service, []).append(each)
    return {
        str(service): Service(
            namespace=service.namespace,
            name=service.name,
            cluster_ips=service.cluster_ips,
            # kube-proxy ignores headless Services, whatever else they specify.
            load_balancer_ips=service.load_balancer_ips if service.cluster_ips else (),
            external_ips=service.external_ips if service.cluster_ips else (),
            ports=tuple(
                _resolved(service, port, by_service.get(str(service), ()), node)
                for port in service.ports
            ),
            client_ip_affinity=service.client_ip_affinity,
        )
        for service in services
    }


def _resolved(
    service: ClusterService, port: ServicePort, slices: Iterable[EndpointSlice], node: NodeTopology
) -> ServicePort:
    candidates = _candidates(port, slices)
    endpoints = _endpoints(candidates, node, only_own_node=service.only_own_node)
    external: tuple[Endpoint, ...] = ()
    if service.load_balancer_ips or service.external_ips:
        external = (
            _endpoints(candidates, node, only_own_node=False)
            if service.only_own_node
            else endpoints
        )
    return msgspec.structs.replace(port, endpoints=endpoints, external_endpoints=external)


def _candidates(
    port: ServicePort, slices: Iterable[EndpointSlice]
) -> Mapping[Family, Mapping[Endpoint, SliceEndpoint]]:
    """All endpoints of a port, by IP family."""
    candidates: dict[Family, dict[Endpoint, SliceEndpoint]] = {family: {} for family in Family}
    for each in slices:
        number = each.ports.get((port.name, port.protocol))
        if number is None:
            continue
        there = candidates[each.family]
        for candidate in each.endpoints:
            endpoint = Endpoint(candidate.address, number)
            # While slices are rebalanced, an endpoint may be in two of them.
            former = there.get(endpoint)
            if former is None or _usability(candidate) > _usability(former):
                there[endpoint] = candidate
    return candidates


def _endpoints(
    candidates: Mapping[Family, Mapping[Endpoint, SliceEndpoint]],
    node: NodeTopology,
    *,
    only_own_node: bool,
) -> tuple[Endpoint, ...]:
    return tuple(
        sorted(
            endpoint
            for there in candidates.values()
            for endpoint in _chosen(there, node, only_own_node=only_own_node)
        )
    )


def _usability(candidate: SliceEndpoint) -> tuple[bool, bool]:
    return candidate.ready, candidate.serving


def _chosen(
    candidates: Mapping[Endpoint, SliceEndpoint], node: NodeTopology, *, only_own_node: bool
) -> list[Endpoint]:
    usable = candidates
    if only_own_node and node.name:
        usable = {key: each for key, each in candidates.items() if each.node == node.name}
    ready = {key: each for key, each in usable.items() if each.ready}
    if not ready:
        return [key for key, each in usable.items() if each.serving and each.terminating]
    return list(ready) if only_own_node else _nearest(ready, node)


def _nearest(ready: Mapping[Endpoint, SliceEndpoint], node: NodeTopology) -> list[Endpoint]:
    """Those with hints for the node or its zone; hints count only if every endpoint has some."""
    for hints, here in (("for_nodes", node.name), ("for_zones", node.zone)):
        hinted: dict[Endpoint, frozenset[str]] = {
            key: getattr(each, hints) for key, each in ready.items()
        }
        near = [key for key, places in hinted.items() if here and here in places]
        if near and all(hinted.values()):
            return near
    return list(ready)


class ClusterPods:
    """All pods, each address with the one that has it now: an incremental `pods_by_uid`.

    Args:
        node: See `pods_by_uid`.

    Attributes:
        by_uid: The pods.
    """

    def __init__(self, node: str = "") -> None:
        self._node = node
        self.by_uid: Table[Pod] = Table()
        self._by_key: dict[str, Pod] = {}
        self._claimants: dict[str, tuple[Pod, ...]] = {}

    def apply(self, changes: Changes[Pod]) -> None:
        """Apply changes; their keys are the pods' names."""
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
    """All Services with the endpoints for a node's pods: an incremental `resolve_services`.

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
        """Apply changes of Services."""
        for key in changes.deleted:
            del self._services[key]
        self._services |= changes.upserted
        self._resolve((*changes.deleted, *changes.upserted))

    def apply_slices(self, changes: Changes[EndpointSlice]) -> None:
        """Apply changes of EndpointSlices."""
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
        """Choose endpoints again for another node, or for this one in another zone."""
        if node != self._node:
            self._node = node
            self._resolve(self._services)

    def _resolve(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        known = [self._services[key] for key in keys if key in self._services]
        slices = [each for key in keys for _, each in sorted(self._by_service.get(key, {}).items())]
        resolved = resolve_services(known, slices, self._node)
        self.by_key = self.by_key.changed(resolved, [key for key in keys if key not in resolved])
