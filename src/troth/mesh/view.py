"""One node's view of the world: exactly what its Envoy has to know, and nothing else.

`ViewKeeper` updates it: the cost depends on what a change touches, not on the mesh's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_network
from typing import TYPE_CHECKING

import msgspec

from troth.identity.spiffe import SpiffeId
from troth.mesh.addresses import AddressClaims, ExternalPort, external_ports, other_virtual_ips
from troth.mesh.model import ALL_PORTS, NO_PORTS, Pod, Ports, Service
from troth.mesh.world import Workloads, World
from troth.policy.index import PolicyChanges, PolicyIndex
from troth.policy.model import Mode
from troth.policy.verdict import Decision
from troth.table import Table, difference

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from troth.identity.spiffe import TrustDomain


class LocalPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of this node that is in the mesh.

    Attributes:
        pod: The pod.
        netns: Path of its network namespace, as Envoy can open it.
        identity: The identity in its certificate.
        verdict: The effective mode of each of its ports.
        lenient: Accept plaintext whatever the verdict says, because others may not know yet that
            the pod is captured, or no longer captured.
        held: Ports that still accept plaintext, because clients may not be in the tunnel yet.
    """

    pod: Pod
    netns: str
    identity: SpiffeId
    verdict: Decision
    lenient: bool = False
    held: Ports = NO_PORTS

    @property
    def has_ipv6(self) -> bool:
        """Whether any of its addresses is an IPv6 one."""
        return any(":" in address for address in self.pod.addresses)

    @property
    def plaintext(self) -> Ports:
        """The ports that accept plaintext."""
        if self.lenient:
            return ALL_PORTS
        return ports_with(self.verdict, Mode.PERMISSIVE, Mode.DISABLE) | self.held


def ports_with(verdict: Decision, *modes: Mode) -> Ports:
    """The ports whose effective mode is one of ``modes``."""
    usual = verdict.mode in modes
    named = (n for n, port in verdict.ports.items() if (port.mode in modes) is not usual)
    return Ports(usual, frozenset(named) or NO_PORTS.exceptions)


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """A captured pod anywhere in the mesh, as its clients need to know it.

    Attributes:
        addresses: Its IPs.
        identity: The identity that its certificate must have (secure naming).
        tunnel: Whether ports that `exceptions` doesn't name are reached through the tunnel.
        exceptions: The ports for which the opposite is true.
    """

    addresses: tuple[str, ...]
    identity: SpiffeId
    tunnel: bool
    exceptions: frozenset[int] = NO_PORTS.exceptions

    @property
    def plaintext(self) -> Ports:
        """The ports that are reached in plaintext."""
        return Ports(not self.tunnel, self.exceptions)

    def reached(self, plaintext: Ports) -> Destination:
        """A copy, reached in plaintext at these ports and through the tunnel at all others."""
        return msgspec.structs.replace(
            self, tunnel=not plaintext.usual, exceptions=plaintext.exceptions
        )


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What one node enforces and where its pods' connections go.

    Attributes:
        local_pods: By UID, in order.
        destinations: By UID.
        services: By ``NAMESPACE/NAME``.
        service_ranges: Networks and single addresses that contain only services' virtual IPs.
        external_ports: Services' addresses elsewhere.
    """

    local_pods: Mapping[str, LocalPod] = {}
    destinations: Mapping[str, Destination] = {}
    services: Mapping[str, Service] = {}
    service_ranges: tuple[str, ...] = ()
    external_ports: tuple[ExternalPort, ...] = ()


def node_view(
    world: World,
    *,
    netns: Mapping[str, str],
    lenient: Collection[str] = (),
    service_ranges: tuple[str, ...] = (),
) -> NodeView:
    """Derive one node's view from the world alone; `ViewKeeper` does so incrementally.

    Args:
        world: Everything.
        netns: Network namespace paths of the node's own pods to capture, by UID.
        lenient: UIDs of those that accept plaintext whatever the policies say.
        service_ranges: Networks (CIDR) that contain only services' virtual IPs. A virtual IP
            outside them is known only once its service is.
    """
    index = PolicyIndex(world.policies, root_namespace=world.root_namespace)
    local_pods = {}
    destinations = {}
    for uid, pod in sorted(world.pods.items()):
        path = netns.get(uid)
        if path is None and not pod.captured:
            continue
        verdict = index.decide(pod.namespace, pod.labels, [port.number for port in pod.ports])
        identity = pod.spiffe_id(world.trust_domain)
        if path is not None:
            local_pods[uid] = LocalPod(
                pod=pod, netns=path, identity=identity, verdict=verdict, lenient=uid in lenient
            )
        if pod.captured and pod.addresses:
            destinations[uid] = destination(pod, identity, verdict, local=path is not None)
    services = world.services.values()
    networks = [ip_network(text) for text in service_ranges]
    others = {address for service in services for address in other_virtual_ips(service, networks)}
    return NodeView(
        local_pods=local_pods,
        destinations=destinations,
        services=world.services,
        service_ranges=(*service_ranges, *sorted(others)),
        external_ports=external_ports(services, (each.addresses for each in destinations.values())),
    )


def destination(pod: Pod, identity: SpiffeId, verdict: Decision, *, local: bool) -> Destination:
    """What clients have to know about a captured pod.

    Args:
        pod: The pod.
        identity: The identity in its certificate.
        verdict: The effective mode of each of its ports.
        local: Whether it is on this node. A pod on another node gets plaintext only at ports where
            that node says that it accepts it.
    """
    # Auto mTLS goes by the mode of each port, so a STRICT port behind a DISABLE mesh is
    # reached by the tunnel (istio/istio#56084 is what happens otherwise).
    plaintext = ports_with(verdict, Mode.DISABLE)
    if not local:
        plaintext &= pod.plaintext
    return Destination(
        addresses=pod.addresses,
        identity=identity,
        tunnel=not plaintext.usual,
        exceptions=plaintext.exceptions,
    )


class ViewKeeper:
    """The same result as `node_view` for each of successive worlds, computed incrementally.

    It compares objects by identity, so worlds should share what they have in common. If their pods
    and services are a `Table`, only the differences are visited.
    """

    def __init__(self) -> None:
        self._past: _Past | None = None

    def update(
        self,
        world: World,
        *,
        netns: Mapping[str, str],
        lenient: Collection[str] = (),
        service_ranges: tuple[str, ...] = (),
    ) -> NodeView:
        """The view of a world; arguments as for `node_view`."""
        # If an update fails half-way, start afresh next time.
        past, self._past = self._past, None
        if past is None or not past.goes_on(world, service_ranges):
            past = _Past(world, service_ranges)
        view = past.update(world, netns=netns, lenient=lenient)
        self._past = past
        return view


class _Past:
    """All that is kept from the last world of one mesh, for one list of service ranges."""

    def __init__(self, world: World, service_ranges: tuple[str, ...]) -> None:
        self._world = World(trust_domain=world.trust_domain, root_namespace=world.root_namespace)
        self._service_ranges = service_ranges
        self._index = PolicyIndex((), world.root_namespace)
        self._workloads = Workloads(world.root_namespace)
        self._addresses = AddressClaims(service_ranges)
        self._netns: Mapping[str, str] = {}
        self._view = NodeView(destinations=Table())

    def goes_on(self, world: World, service_ranges: tuple[str, ...]) -> bool:
        """Whether ``world`` is a later one of the same mesh."""
        return (
            world.trust_domain == self._world.trust_domain
            and world.root_namespace == self._world.root_namespace
            and service_ranges == self._service_ranges
        )

    def update(
        self, world: World, *, netns: Mapping[str, str], lenient: Collection[str]
    ) -> NodeView:
        """The view of ``world``, derived from the last one's."""
        before, view = self._world, self._view
        pods = difference(before.pods, world.pods)
        for uid in pods.removed:
            self._workloads.drop(uid)
        touched = self._follow_policies(PolicyChanges.between(before.policies, world.policies))
        touched |= pods.upserted.keys() | (netns.keys() ^ self._netns.keys())
        touched -= pods.removed.keys()
        self._world, self._netns = world, dict(netns)

        destinations = self._destinations(world, touched, pods.removed)
        self._addresses.follow(
            difference(before.services, world.services),
            before.services,
            difference(view.destinations, destinations),
            view.destinations,
        )
        self._view = NodeView(
            local_pods=self._local_pods(touched, lenient),
            destinations=destinations,
            services=world.services,
            service_ranges=(*self._service_ranges, *self._addresses.outside),
            external_ports=self._addresses.external_ports,
        )
        return self._view

    def _follow_policies(self, changes: PolicyChanges) -> set[str]:
        """The pods whose decision has changed."""
        if not changes:
            return set()
        self._index = self._index.changed(changes)
        return {
            uid
            for policy in changes.all
            for workload in self._workloads.touched(policy)
            if workload.decide(self._index)
            for uid in workload.uids
        }

    def _destinations(
        self, world: World, touched: Iterable[str], removed: Iterable[str]
    ) -> Table[Destination]:
        known = self._view.destinations
        assert isinstance(known, Table)  # noqa: S101 - set by us
        upserted, gone = {}, [uid for uid in removed if uid in known]
        for uid in touched:
            pod = world.pods.get(uid)
            if pod is None:
                continue
            if not pod.captured and uid not in self._netns:
                self._workloads.drop(uid)
            if pod.captured and pod.addresses:
                upserted[uid] = destination(
                    pod, self._identity(pod), self._decision(pod), local=uid in self._netns
                )
            elif uid in known:
                gone.append(uid)
        changed = {uid: each for uid, each in upserted.items() if known.get(uid) != each}
        return known.changed(changed, gone) if changed or gone else known

    def _local_pods(
        self, touched: Collection[str], lenient: Collection[str]
    ) -> Mapping[str, LocalPod]:
        pods, former = self._world.pods, self._view.local_pods
        now = {}
        for uid, path in sorted(self._netns.items()):
            pod, known = pods.get(uid), former.get(uid)
            if pod is None:
                continue
            if known is not None and uid not in touched:
                now[uid] = msgspec.structs.replace(known, netns=path, lenient=uid in lenient)
            else:
                now[uid] = LocalPod(
                    pod=pod,
                    netns=path,
                    identity=self._identity(pod),
                    verdict=self._decision(pod),
                    lenient=uid in lenient,
                )
        return {uid: each if each != former.get(uid) else former[uid] for uid, each in now.items()}

    def _decision(self, pod: Pod) -> Decision:
        return self._workloads.put(pod, self._index).decision

    def _identity(self, pod: Pod) -> SpiffeId:
        return _identity(self._world.trust_domain, pod.namespace, pod.service_account)


@lru_cache(maxsize=4096)
def _identity(trust_domain: TrustDomain, namespace: str, service_account: str) -> SpiffeId:
    return SpiffeId.for_service_account(trust_domain, namespace, service_account)
