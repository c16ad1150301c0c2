"""Which address a pod or a Service gets: plain bookkeeping, no sockets."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from troth.errors import EnvironmentLackError, InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AnyNetwork = IPv4Network | IPv6Network
AnyAddress = IPv4Address | IPv6Address

POD_RANGE_V4 = IPv4Network("10.244.0.0/24")
POD_RANGE_V6 = IPv6Network("fd74:726f:7468::/64")
SERVICE_RANGE_V4 = IPv4Network("10.96.0.0/16")
SERVICE_RANGE_V6 = IPv6Network("fd74:726f:7468:96::/112")

_SERVICE_STATIC_BAND = 256
"""Lower addresses are left to explicit ``clusterIP`` as long as others are free (KEP-3070)."""


class AddressPool:
    """Hands out the addresses of one range, going round it so that none comes back soon.

    The first address (the network), the second (the gateway's) and the last (IPv4 broadcast) are
    never handed out.

    Args:
        network: The range.
        start: Offset into the range of the first address to hand out.
    """

    def __init__(self, network: AnyNetwork, *, start: int = 2) -> None:
        self.network = network
        self._first = 2
        self._last = network.num_addresses - 2
        self._next = start if self._first <= start <= self._last else self._first
        self._taken: set[AnyAddress] = set()

    @property
    def gateway(self) -> str:
        """The range's first usable address, which is never handed out."""
        return str(self.network[1])

    def allocate(self) -> str:
        """The next free address.

        Raises:
            EnvironmentLackError: The range is used up.
        """
        usable = self._last - self._first + 1
        if len(self._taken) >= usable:
            raise EnvironmentLackError(
                f"all {max(usable, 0)} addresses of {self.network} are in use",
                "use a larger range or fewer pods",
            )
        while (address := self.network[self._next]) in self._taken:
            self._advance()
        self._advance()
        self._taken.add(address)
        return str(address)

    def claim(self, address: str) -> bool:
        """Takes this very address; False when it is taken, reserved or out of the range."""
        parsed = ip_address(address)
        if parsed not in self.network or parsed in self._taken:
            return False
        offset = int(parsed) - int(self.network.network_address)
        if not self._first <= offset <= self._last:
            return False
        self._taken.add(parsed)
        return True

    def release(self, address: str) -> None:
        """Gives ``address`` back; no-op when it was not handed out."""
        self._taken.discard(ip_address(address))

    def _advance(self) -> None:
        self._next = self._first if self._next >= self._last else self._next + 1


class ServiceAddresses:
    """The virtual IPs of Services; a Service keeps its own for as long as it exists.

    Args:
        v4: The range of IPv4 ``clusterIPs``.
        v6: The range of IPv6 ``clusterIPs``.
    """

    def __init__(
        self, v4: IPv4Network = SERVICE_RANGE_V4, v6: IPv6Network = SERVICE_RANGE_V6
    ) -> None:
        self._pools = {
            "IPv4": AddressPool(v4, start=_SERVICE_STATIC_BAND),
            "IPv6": AddressPool(v6, start=_SERVICE_STATIC_BAND),
        }
        self._held: dict[str, tuple[str, ...]] = {}

    def assign(
        self, service: str, *, families: tuple[str, ...] = ("IPv4",), requested: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """The virtual IPs of ``service``, the same as before unless the question has changed.

        Args:
            service: ``NAMESPACE/NAME``.
            families: One address of each: ``IPv4``, ``IPv6`` or both, the primary one first.
            requested: ``spec.clusterIPs`` where they are addresses, of the first families.

        Raises:
            InputError: One of ``requested`` is not of the range, or another Service's.
            EnvironmentLackError: A range is used up.
        """
        wanted = [str(ip_address(each)) for each in requested]
        held = {_family(address): address for address in self._held.get(service, ())}
        wanted += [held.get(family, "") for family in families[len(wanted) :]]
        for address in set(held.values()) - set(wanted):
            self._pools[_family(address)].release(address)
        kept = [address for address in held.values() if address in wanted]
        self._held[service] = tuple(kept)
        addresses: list[str] = []
        for index, (family, address) in enumerate(zip(families, wanted, strict=True)):
            if address and address not in kept:
                self._claim(service, address, index)
            addresses.append(address or self._pools[family].allocate())
            self._held[service] = tuple(dict.fromkeys((*addresses, *kept)))
        return self._held[service]

    def release(self, service: str) -> None:
        """Gives back what ``service`` held; no-op when that is nothing."""
        for address in self._held.pop(service, ()):
            self._pools[_family(address)].release(address)

    def retain(self, services: Iterable[str]) -> None:
        """Gives back what all others than ``services`` held."""
        for gone in self._held.keys() - set(services):
            self.release(gone)

    def _claim(self, service: str, requested: str, index: int) -> None:
        family = _family(requested)
        if self._pools[family].claim(requested):
            return
        owner = next((name for name, ips in self._held.items() if requested in ips), None)
        found = f"{requested} is Service {owner}'s" if owner else f"{requested} is not available"
        problem = Problem(
            subject=f"Service {service}",
            path=f"spec.clusterIPs[{index}]" if index else "spec.clusterIP",
            found=found,
            wanted=f"use a free address of {self._pools[family].network}, or leave it out",
        )
        raise InputError([problem])


def _family(address: str) -> str:
    return f"IPv{ip_address(address).version}"
