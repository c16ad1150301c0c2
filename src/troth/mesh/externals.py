"""Services' addresses beside their cluster IPs: whose such an address is, port by port.

Unlike a cluster IP, such an address can be anything: a node's own, one that several Services share,
or one that a Service has no business with, because whoever may make Services may write what he
likes to ``externalIPs`` (CVE-2020-8554). So it stands for the Service on the Service's ports alone,
and only if nobody has a better claim:

1. a captured pod, or a Service whose cluster IP it is
2. a Service whose load balancer has it, which its controller says
3. a Service that calls it an external IP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.mesh.model import Endpoint, Protocol, Service

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class ExternalPort(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP port at an address that is a Service's there.

    Attributes:
        endpoints: Where its connections go; some may be of the other IP family.
        client_ip_affinity: As of `Service`.
    """

    address: str
    number: int
    endpoints: tuple[Endpoint, ...] = ()
    client_ip_affinity: bool = False


def external_ports(
    services: Iterable[Service], taken: Iterable[Collection[str]]
) -> tuple[ExternalPort, ...]:
    """All of them, in a fixed order; of Services with equal claims the first by name wins.

    Args:
        services: All Services.
        taken: Addresses of captured pods, pod by pod.
    """
    services = sorted(services, key=str)
    if not any(each.load_balancer_ips or each.external_ips for each in services):
        return ()
    better = {address for addresses in taken for address in addresses}
    better |= {address for service in services for address in service.cluster_ips}
    claims = [(service, address) for service in services for address in service.load_balancer_ips]
    claims += [(service, address) for service in services for address in service.external_ips]
    found: dict[tuple[str, int], ExternalPort] = {}
    for service, address in claims:
        if address in better:
            continue
        for port in service.ports:
            if port.protocol is Protocol.TCP:
                claimed = ExternalPort(
                    address=address,
                    number=port.number,
                    endpoints=port.external_endpoints,
                    client_ip_affinity=service.client_ip_affinity,
                )
                found.setdefault((address, port.number), claimed)
    return tuple(each for _, each in sorted(found.items()))
