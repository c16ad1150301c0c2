"""One node's view of the world: exactly what its Envoy has to know, and nothing else."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec

from troth.identity import SpiffeId
from troth.mesh._externals import ExternalPort, external_ports
from troth.mesh._model import Pod, Service
from troth.policy import Decision, Mode, PolicyIndex

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

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
    exceptions: frozenset[int] = frozenset()


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """What one node enforces and where its pods' connections go.

    Attributes:
        service_ranges: Networks and single addresses that are nothing but services' virtual IPs.
        external_ports: Where else services are reached.
    """

    local_pods: tuple[LocalPod, ...] = ()
    destinations: tuple[Destination, ...] = ()
    services: tuple[Service, ...] = ()
    service_ranges: tuple[str, ...] = ()
    external_ports: tuple[ExternalPort, ...] = ()


def node_view(
    world: World,
    *,
    netns: Mapping[str, str],
    lenient: Collection[str] = (),
    service_ranges: tuple[str, ...] = (),
) -> NodeView:
    """Derive one node's view.

    Args:
        world: Everything.
        netns: Network namespace paths of the node's own pods that are to be captured, by UID.
        lenient: UIDs of those whose plaintext passes whatever the policies say.
        service_ranges: Networks (CIDR) that hold nothing but services' virtual IPs. Virtual IPs
            outside of them are known by themselves, but only once their service is.
    """
    index = PolicyIndex(world.policies, root_namespace=world.root_namespace)
    local_pods = []
    destinations = []
    for uid, pod in sorted(world.pods.items()):
        path = netns.get(uid)
        if path is None and not pod.captured:
            continue
        verdict = index.decide(pod.namespace, pod.labels, [port.number for port in pod.ports])
        identity = pod.spiffe_id(world.trust_domain)
        if path is not None:
            local_pods.append(
                LocalPod(
                    pod=pod,
                    netns=path,
                    identity=identity,
                    verdict=verdict,
                    lenient=uid in lenient,
                )
            )
        if pod.captured and pod.addresses:
            destinations.append(_destination(pod, identity, verdict))
    return NodeView(
        local_pods=tuple(local_pods),
        destinations=tuple(destinations),
        services=tuple(service for _, service in sorted(world.services.items())),
        service_ranges=(*service_ranges, *_other_virtual_ips(world, service_ranges)),
        external_ports=external_ports(
            world.services.values(), (destination.addresses for destination in destinations)
        ),
    )


def _other_virtual_ips(world: World, ranges: Iterable[str]) -> list[str]:
    networks = [ip_network(text) for text in ranges]
    return sorted(
        {
            address
            for service in world.services.values()
            for address in service.cluster_ips
            if not any(ip_address(address) in network for network in networks)
        }
    )


def _destination(pod: Pod, identity: SpiffeId, verdict: Decision) -> Destination:
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
        ),
    )
