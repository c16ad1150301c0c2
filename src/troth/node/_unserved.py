"""Refuses captured pods' connections to Services that nothing serves, as kube-proxy would.

Envoy accepts before it knows where a connection goes, so an app would see one to a cluster IP
without an endpoint open and then end. Where that is known before, a rule ahead of the redirect to
Envoy refuses the first packet (SYN) by a reset. What is open already isn't looked at.

Refused is only what is known: TCP to a cluster IP of a Service that has no such port, or no
endpoint of the address's family behind it. Services' other addresses can be anything, so they are
left to Envoy. The rules go by two kinds of sets, cluster IPs and the ports of them that are served,
which are changed together with what Envoy is told. Elements are kernel memory in each pod, so there
is a most: with more Services the sets are empty, and nothing is refused.

The table is one of its own, because that of `_capture` is replaced whole. Its sets survive an
agent, and its successor brings them up to date.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

import structlog

from troth._table import difference
from troth.errors import TrothError
from troth.mesh import Protocol
from troth.node._set_elements import Change, SetElements

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from troth.mesh import Service

_log = structlog.get_logger(__name__)

TABLE = "troth_unserved"

MOST_ENTRIES = 3000
"""Each cluster IP is one, and each TCP port of it: some 0.3 MB of the kernel's memory in a pod."""

_FIRST = "tcp flags syn / fin,syn,rst,ack"
_VERSIONS = (("ip", "ipv4_addr"), ("ip6", "ipv6_addr"))
_SETS = tuple(f"{kind}_{version}" for kind in ("virtual", "served") for version, _ in _VERSIONS)
_PORT = struct.Struct("!Hxx")
"""As in a key of several fields, each of which is padded to four bytes."""


def unserved_rules() -> str:
    """The table as an nftables transaction that keeps what is in its sets.

    A set can't be redefined: what changes here needs another name.
    """
    lines = [f"add table inet {TABLE}"]
    for version, kind in _VERSIONS:
        lines.append(f"add set inet {TABLE} virtual_{version} {{ type {kind}; }}")
        lines.append(f"add set inet {TABLE} served_{version} {{ type {kind} . inet_service; }}")
    # Behind connection tracking, so that the reset is known to belong to what it answers.
    hook = "{ type filter hook output priority -150; policy accept; }"
    lines += [f"add chain inet {TABLE} output {hook}", f"flush chain inet {TABLE} output"]
    lines += [
        f"add rule inet {TABLE} output {_FIRST} {version} daddr @virtual_{version} "
        f"{version} daddr . tcp dport != @served_{version} reject with tcp reset"
        for version, _ in _VERSIONS
    ]
    return "\n".join(lines) + "\n"


def no_unserved_rules() -> str:
    """The table's removal as an nftables transaction, also where it isn't there."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


class Unserved:
    """Keeps the sets in all captured pods as the Services are.

    Args:
        most: How many entries there may be, as of `MOST_ENTRIES`.
    """

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._services: Mapping[str, Service] = {}
        self._entries: Counter[_Entry] = Counter()
        self._size = 0
        self._pods: dict[str, SetElements] = {}
        self._netns: dict[str, Path] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def update(self, services: Mapping[str, Service]) -> None:
        """Go by these Services from now on, by ``NAMESPACE/NAME``, in all pods at once."""
        changes = difference(self._services, services)
        former = [self._services[key] for key in changes.upserted if key in self._services]
        gone, come = (*changes.removed.values(), *former), tuple(changes.upserted.values())
        self._services = services
        fitted = self._fits
        self._size += sum(map(_size, come)) - sum(map(_size, gone))
        if self._fits and fitted:
            added, removed = self._recount(gone, come)
            for uid in tuple(self._pods):
                self._change(uid, added, removed)
        elif self._fits is not fitted:
            _log.info("refuses what is unserved", it_does=self._fits, entries=self._size)
            self._entries = _count(services.values() if self._fits else ())
            for uid in tuple(self._pods):
                self._load(uid)

    async def follow(self, pods: Mapping[str, Path]) -> None:
        """Keep the sets in these pods from now on: network namespaces by UID."""
        # A pod may come back in another namespace under its UID.
        for uid in [uid for uid in self._pods if self._netns[uid] != pods.get(uid)]:
            self._pods.pop(uid).close()
            del self._netns[uid]
        for uid in pods.keys() - self._pods.keys():
            try:
                self._pods[uid] = await asyncio.to_thread(SetElements, pods[uid], TABLE)
            except TrothError:
                continue  # the pod has ended
            self._netns[uid] = pods[uid]
            self._load(uid)

    def close(self) -> None:
        """Leave the sets in all pods to another agent."""
        for elements in self._pods.values():
            elements.close()
        self._pods.clear()
        self._netns.clear()

    @property
    def _fits(self) -> bool:
        return self._size <= self._most

    def _recount(
        self, gone: Iterable[Service], come: Iterable[Service]
    ) -> tuple[set[_Entry], set[_Entry]]:
        """Go on to other Services; the entries that are there now, and those that aren't any more.

        Two may be seen with one address when one has just taken the other's place.
        """
        less, more = _count(gone), _count(come)
        before = {entry for entry in less | more if entry in self._entries}
        self._entries.update(more)
        self._entries.subtract(less)
        after = {entry for entry in less | more if self._entries[entry]}
        for entry in before - after:
            del self._entries[entry]
        return after - before, before - after

    def _load(self, uid: str) -> None:
        """Bring a pod's sets up to date whatever is in them."""
        try:
            found = {(name, key) for name in _SETS for key in self._pods[uid].keys(name)}
        except OSError as error:
            self._give_up(uid, error)
            return
        self._change(uid, self._entries.keys() - found, found - self._entries.keys())

    def _change(self, uid: str, added: Collection[_Entry], removed: Collection[_Entry]) -> None:
        changes = [
            Change(
                name=name,
                added=[key for each, key in added if each == name],
                removed=[key for each, key in removed if each == name],
            )
            for name in _SETS
        ]
        try:
            self._pods[uid].change(changes)
        except OSError as error:
            self._give_up(uid, error)

    def _give_up(self, uid: str, error: OSError) -> None:
        """Refuse nothing in a pod, rather than what is served, until it is loaded once more."""
        elements = self._pods.pop(uid)
        try:
            for version, _ in _VERSIONS:
                elements.clear(f"virtual_{version}")
        except OSError as again:
            error = again
        elements.close()
        _log.warning("refuses nothing that is unserved", pod=uid, reason=str(error))


_Entry = tuple[str, bytes]
"""A set's name, and the key of an element."""


def _count(services: Iterable[Service]) -> Counter[_Entry]:
    return Counter(entry for service in services for entry in _entries(service))


def _entries(service: Service) -> Iterator[_Entry]:
    for address in service.cluster_ips:
        version, packed = _packed(address)
        yield f"virtual_{version}", packed
        for port in service.ports:
            # As Envoy balances: over the endpoints of the address's family.
            if port.protocol is Protocol.TCP and any(
                (":" in endpoint.address) == (":" in address) for endpoint in port.endpoints
            ):
                yield f"served_{version}", packed + _PORT.pack(port.number)


def _size(service: Service) -> int:
    """The entries there would be if all was served: what goes and comes changes no size."""
    ports = sum(port.protocol is Protocol.TCP for port in service.ports)
    return len(service.cluster_ips) * (1 + ports)


def _packed(address: str) -> tuple[str, bytes]:
    parsed = ip_address(address)
    return ("ip" if parsed.version == 4 else "ip6"), parsed.packed  # noqa: PLR2004 - IPv4
