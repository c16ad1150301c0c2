"""How much one Service can ask of every node.

Each TCP port at each address of a Service is a cluster of its own in the Envoy of every node of the
mesh, and whoever may make Services may write as many of both as an object has room for: a small
Service with 200 addresses and 100 ports would be 20,000 clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.mesh.model import Protocol

if TYPE_CHECKING:
    from troth.cluster.checks import Checks
    from troth.cluster.world import ClusterService

MOST_PORTS = 1024
"""TCP ports of a Service."""

MOST_PAIRS = 256
"""Pairs of an address beside the cluster IPs and a TCP port."""


def within_limits(checks: Checks, service: ClusterService) -> ClusterService:
    """A Service with no more than the mesh takes of it; warns of what is left out.

    Always the same is left out: the highest ports, and of its addresses the last ones in order.
    Addresses are heeded on all ports or on none; a load balancer's come first, because only its
    controller can write them.
    """
    known = sorted({port.number for port in service.ports if port.protocol is Protocol.TCP})
    if not known:
        return service
    numbers = known[:MOST_PORTS]
    ports = service.ports
    if len(numbers) < len(known):
        ports = tuple(
            port
            for port in ports
            if port.protocol is not Protocol.TCP or port.number <= numbers[-1]
        )
        checks.warn(
            "spec.ports",
            f"has {len(known)} TCP ports, and pods of the mesh reach none above {numbers[-1]}",
            f"give a Service no more than {MOST_PORTS}",
        )
    room = MOST_PAIRS // len(numbers)
    balancer = _first(checks, service.load_balancer_ips, room, "status.loadBalancer.ingress")
    external = _first(checks, service.external_ips, room - len(balancer), "spec.externalIPs")
    return msgspec.structs.replace(
        service, ports=ports, load_balancer_ips=balancer, external_ips=external
    )


def _first(checks: Checks, addresses: tuple[str, ...], room: int, path: str) -> tuple[str, ...]:
    if len(set(addresses)) <= room:
        return addresses
    kept = tuple(sorted(set(addresses))[:room])
    checks.warn(
        path,
        f"has {len(set(addresses))} addresses, of which {len(kept)} are reached by mutual TLS and"
        " the others as they are, through kube-proxy",
        f"let addresses times TCP ports be no more than {MOST_PAIRS}, those of load balancers"
        " counted first, or divide them among several Services",
    )
    return kept
