"""Services' addresses outside of the service ranges, kept up to date service by service."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network
from typing import TYPE_CHECKING

from troth.mesh.externals import ExternalPort, external_ports
from troth.mesh.view import other_virtual_ips

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from troth._table import Difference
    from troth.mesh.model import Service
    from troth.mesh.view import Destination


class ServiceAddresses:
    """Follows services, and the captured pods as far as an address of theirs is claimed by one.

    Args:
        ranges: Networks (CIDR) that hold nothing but services' virtual IPs.

    Attributes:
        outside: Virtual IPs outside of the ranges, in order.
        external_ports: As of `NodeView`.
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
            services: How the services have changed.
            former: All services before that.
            destinations: How the captured pods have changed.
            before: All captured pods before that.
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
        """Those of the claimed addresses that are somebody's by a better claim."""
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
