"""Services' addresses besides their cluster IPs: which Service owns one, port by port.

Unlike a cluster IP, such an address can be anything: a node's own, one that several Services share,
or somebody else's, because users who may create Services may write anything to ``externalIPs``
(CVE-2020-8554). So it belongs to the Service on the Service's ports only, and only if nobody has a
better claim:

1. a captured pod, or a Service whose cluster IP it is
2. a Service whose load balancer has it, according to the load balancer's controller
3. a Service that lists it as an external IP

`AddressClaims` tracks the addresses outside the service ranges, Service by Service.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import msgspec

from troth.mesh.model import Endpoint, Protocol, Service

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from ipaddress import IPv4Network, IPv6Network

    from troth.mesh.view import Destination
    from troth.table import Difference


class AddressClaims:
    """Tracks services, and captured pods whose addresses a service claims.

    Args:
        ranges: Networks (CIDR) that hold nothing but services' virtual IPs.

    Attributes:
        outside: Virtual IPs outside the ranges, in order.
        external_ports: See `NodeView`.
    """

    def __init__(self, ranges: Iterable[str]) -> None:
        self.outside: tuple[str, ...] = ()
        self.external_ports: tuple[ExternalPort, ...] = ()
        self._networks = [ip_network(text) for text in ranges]
        self._virtual_ips: Counter[str] = Counter()
        self._outside: Counter[str] = Counter()
        self._pod_ips: Counter[str] = Counter()
        self._claimants: dict[str, Service] = {}

    def follow(
        self,
        services: Difference[Service],
        former: Mapping[str, Service],
        destinations: Difference[Destination],
        before: Mapping[str, Destination],
    ) -> None:
        """Take changes into account.

        Args:
            services: The change of services.
            former: All services before.
            destinations: The change of captured pods.
            before: All captured pods before.
        """
        for key, service in services.removed.items():
            self._forget(key, service)
        for key, service in services.upserted.items():
            if key in former:
                self._forget(key, former[key])
            self._learn(key, service)
        for pod in destinations.removed.values():
            self._count(self._pod_ips, pod.addresses, -1)
        for uid, pod in destinations.upserted.items():
            if uid in before:
                self._count(self._pod_ips, before[uid].addresses, -1)
            self._count(self._pod_ips, pod.addresses, 1)
        if services:
            self.outside = tuple(sorted(self._outside))
        if services or (destinations and self._claimants):
            self.external_ports = external_ports(self._claimants.values(), [self._taken()])

    def _taken(self) -> list[str]:
        """The claimed addresses that somebody else has a better claim to."""
        claimed = {
            address
            for service in self._claimants.values()
            for address in (*service.load_balancer_ips, *service.external_ips)
        }
        return [each for each in claimed if each in self._pod_ips or each in self._virtual_ips]

    def _learn(self, key: str, service: Service) -> None:
        self._count(self._virtual_ips, service.cluster_ips, 1)
        self._count(self._outside, self._foreign(service), 1)
        if service.load_balancer_ips or service.external_ips:
            self._claimants[key] = service

    def _forget(self, key: str, service: Service) -> None:
        self._count(self._virtual_ips, service.cluster_ips, -1)
        self._count(self._outside, self._foreign(service), -1)
        self._claimants.pop(key, None)

    def _foreign(self, service: Service) -> list[str]:
        return other_virtual_ips(service, self._networks)

    @staticmethod
    def _count(counter: Counter[str], addresses: Iterable[str], by: int) -> None:
        for address in addresses:
            counter[address] += by
            if not counter[address]:
                del counter[address]


class ExternalPort(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP port at an address, owned by a Service.

    Attributes:
        endpoints: Where its connections go; some may be of the other IP family.
        client_ip_affinity: See `Service`.
    """

    address: str
    number: int
    endpoints: tuple[Endpoint, ...] = ()
    client_ip_affinity: bool = False


def external_ports(
    services: Iterable[Service], taken: Iterable[Collection[str]]
) -> tuple[ExternalPort, ...]:
    """All external ports, in a fixed order; among equal claims the first Service by name wins.

    Args:
        services: All Services.
        taken: Addresses of captured pods, by pod.
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


def other_virtual_ips(service: Service, networks: Iterable[IPv4Network | IPv6Network]) -> list[str]:
    """The virtual IPs of a service that are in none of the networks."""
    return [
        address
        for address in service.cluster_ips
        if not any(ip_address(address) in network for network in networks)
    ]
