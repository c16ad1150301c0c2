"""One node's view of the world: exactly what its Envoy has to know, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec

from troth.identity.spiffe import SpiffeId
from troth.mesh.externals import ExternalPort, external_ports
from troth.mesh.model import Pod, Service
from troth.mesh.ports import ALL_PORTS, NO_PORTS, Ports
from troth.policy.model import Mode
from troth.policy.resolve import PolicyIndex
from troth.policy.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from troth.mesh.world import World


class LocalPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of this node that is in the mesh.

    Attributes:
        pod: The pod.
        netns: Path of its network namespace, as Envoy can open it.
        identity: What its certificate says.
        verdict: The effective mode of each of its ports.
        lenient: Plaintext passes whatever the verdict says, because others have not heard yet that
            the pod is captured, or that it is no longer.
        held: Ports at which it still passes, because clients may not have entered the tunnel yet.
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
        """The ports to which plaintext passes."""
        if self.lenient:
            return ALL_PORTS
        return ports_with(self.verdict, Mode.PERMISSIVE, Mode.DISABLE) | self.held


def ports_with(verdict: Decision, *modes: Mode) -> Ports:
    """The ports whose effective mode is one of some."""
    usual = verdict.mode in modes
    named = (n for n, port in verdict.ports.items() if (port.mode in modes) is not usual)
    return Ports(usual, frozenset(named) or NO_PORTS.exceptions)


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """A captured pod anywhere in the mesh, as its clients need to know it.

    Attributes:
        addresses: Its IPs.
        identity: What its certificate must say (secure naming).
        tunnel: Whether ports that `exceptions` doesn't name are reached by the tunnel.
        exceptions: The ports for which the opposite holds.
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
        """The same, reached in plaintext at these ports and by the tunnel at all others."""
        return msgspec.structs.replace(
            self, tunnel=not plaintext.usual, exceptions=plaintext.exceptions
        )


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What one node enforces and where its pods' connections go.

    Attributes:
        local_pods: By UID, in order.
        destinations: By UID.
        services: By ``NAMESPACE/NAME``.
        service_ranges: Networks and single addresses that are nothing but services' virtual IPs.
        external_ports: Where else services are reached.
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
    """Derive one node's view from nothing but the world; `ViewKeeper` does so change by change.

    Args:
        world: Everything.
        netns: Network namespace paths of the node's own pods that are to be captured, by UID.
        lenient: UIDs of those whose plaintext passes whatever the policies say.
        service_ranges: Networks (CIDR) that hold nothing but services' virtual IPs. Virtual IPs
            outside of them are known by themselves, but only once their service is.
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


def other_virtual_ips(service: Service, networks: Iterable[IPv4Network | IPv6Network]) -> list[str]:
    """The virtual IPs of a service that are in none of the networks."""
    return [
        address
        for address in service.cluster_ips
        if not any(ip_address(address) in network for network in networks)
    ]


def destination(pod: Pod, identity: SpiffeId, verdict: Decision, *, local: bool) -> Destination:
    """What clients have to know of a captured pod.

    Args:
        pod: The pod.
        identity: What its certificate says.
        verdict: The effective mode of each of its ports.
        local: Whether it is on this node. One on another node is sent plaintext only where that
            node says that it takes it.
    """
    # Auto mTLS asks for the mode of the very port, so a STRICT port behind a DISABLE mesh is
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
