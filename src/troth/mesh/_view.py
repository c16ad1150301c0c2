"""One node's view of the world: exactly what its Envoy has to know, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec

from troth.identity import SpiffeId
from troth.mesh._externals import ExternalPort, external_ports
from troth.mesh._model import Pod, Service
from troth.policy import Decision, Mode, PolicyIndex

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from troth.mesh._world import World


class LocalPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of this node that is in the mesh.

    Attributes:
        pod: The pod.
        netns: Path of its network namespace, as Envoy can open it.
        identity: What its certificate says.
        verdict: The effective mode of each of its ports.
        lenient: Plaintext passes whatever the verdict says, because others have not heard yet that
            the pod is captured, or that it is no longer.
    """

    pod: Pod
    netns: str
    identity: SpiffeId
    verdict: Decision
    lenient: bool = False

    @property
    def has_ipv6(self) -> bool:
        """Whether any of its addresses is an IPv6 one."""
        return any(":" in address for address in self.pod.addresses)

    def takes_plaintext(self, mode: Mode) -> bool:
        """Whether plaintext to a port of that effective mode passes."""
        return self.lenient or mode is not Mode.STRICT


_NONE: frozenset[int] = frozenset()  # one for all: an empty set takes as much as a small one


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
    exceptions: frozenset[int] = _NONE


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
            destinations[uid] = destination(pod, identity, verdict)
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


def destination(pod: Pod, identity: SpiffeId, verdict: Decision) -> Destination:
    """What clients have to know of a captured pod."""
    # Auto mTLS asks for the mode of the very port, so a STRICT port behind a DISABLE mesh is
    # reached by the tunnel (istio/istio#56084 is what happens otherwise).
    tunnel = verdict.mode is not Mode.DISABLE
    return Destination(
        addresses=pod.addresses,
        identity=identity,
        tunnel=tunnel,
        exceptions=frozenset(
            number
            for number, port in verdict.ports.items()
            if (port.mode is not Mode.DISABLE) is not tunnel
        )
        or _NONE,
    )
