"""Refuses what nothing serves ahead of Envoy, as a pod and its node would without a mesh.

Envoy accepts before it knows where a connection goes, so a client would see one to a cluster IP
without an endpoint open and then end. Where that is known before, a rule ahead of the redirect to
Envoy refuses the first packet (SYN) by a reset. What is open already isn't looked at.

Refused is only what is known. On the way out that is TCP to a cluster IP of a Service that has no
such port, or no endpoint of the address's family behind it. Services' other addresses can be
anything, so they are left to Envoy. The rules go by two kinds of sets, cluster IPs and the ports of
them that are served, which are changed together with what Envoy is told. Elements are kernel memory
in each pod, so there is a most: with more Services the sets are empty, and nothing is refused. On
the way in it is what comes from outside for a port that no socket of the pod listens on.

Envoy never hears of these connections, so the kernel counts them, in two more kinds of sets: by the
address and port that the pod's clients asked for, and by who asked for which port of the pod. The
sets are small. While one is full, what it has no element for is refused and not counted.

The table is one of its own, because that of `capture` is replaced whole. Its sets survive an
agent, and its successor brings them up to date.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog

from troth.agent.set_elements import (
    FIRST_PACKET,
    IP_VERSIONS,
    Counted,
    SetChange,
    increases,
    packed,
    read_counts,
    transaction,
)
from troth.mesh.model import Protocol
from troth.mesh.ports import TUNNEL_PORT
from troth.table import difference
from troth.traffic.connection import ConnectionReport, Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping

    from troth.agent.set_elements import SetElements
    from troth.mesh.model import Service

_log = structlog.get_logger(__name__)

TABLE = "troth_unserved"

MOST_ENTRIES = 3000
"""Each cluster IP is one, and each TCP port of it: some 0.3 MB of the kernel's memory in a pod."""

_MOST_COUNTED = 256
"""Elements of each set that counts. They are forgotten a minute after their last packet."""

_MOST_TOLD = 32
"""Elements of a pod that are told of at one look; the others are at the next ones."""

_LOOK_SECONDS = 2.0

_SETS = tuple(f"{kind}_{version}" for kind in ("virtual", "served") for version, _ in IP_VERSIONS)
_REFUSED = tuple(f"refused_{version}" for version, _ in IP_VERSIONS)
_UNHEARD = tuple(f"unheard_{version}" for version, _ in IP_VERSIONS)
_PORT = struct.Struct("!Hxx")
"""As in a key of several fields, each of which is padded to four bytes."""

IF_HEARD = "socket transparent 0 return; socket transparent 1 return"
"""Whatever socket the kernel finds is either; there is none of a port that nobody listens on.

Also one in TIME-WAIT, which a client may open again (RFC 9293, 3.6.1). Of that the kernel has no
`socket wildcard`.
"""


def refusal_rules(*, unheard: bool = True, uncounted: Collection[str] = ()) -> str:
    """The table as an nftables transaction that keeps what is in its sets.

    A set can't be redefined: what changes here needs another name.

    Args:
        unheard: Refuse what comes from outside for a port that nobody in the pod listens on. Needs
            Linux 5.11.
        uncounted: Addresses whose connections are refused in the same way, and not counted.
    """
    lines = [f"add table inet {TABLE}"]
    counts = f"flags dynamic,timeout; size {_MOST_COUNTED}; timeout 60s; gc-interval 5s;"
    for version, kind in IP_VERSIONS:
        lines.append(f"add set inet {TABLE} virtual_{version} {{ type {kind}; }}")
        lines.append(f"add set inet {TABLE} served_{version} {{ type {kind} . inet_service; }}")
        for name in ("refused", "unheard"):
            kinds = f"type {kind} . inet_service"
            lines.append(f"add set inet {TABLE} {name}_{version} {{ {kinds}; {counts} }}")
    first, versions = FIRST_PACKET, [version for version, _ in IP_VERSIONS]
    chains = {
        "unserved": [
            *(f"update @refused_{v} {{ {v} daddr . tcp dport counter }}" for v in versions),
            "reject with tcp reset",
        ],
        "unheard": [
            *IF_HEARD.split("; "),
            *(
                f"ip{'6' if ':' in each else ''} saddr {each} reject with tcp reset"
                for each in uncounted
            ),
            *(f"update @unheard_{v} {{ {v} saddr . tcp dport counter }}" for v in versions),
            "reject with tcp reset",
        ],
        "output": [
            f"{first} {v} daddr @virtual_{v} {v} daddr . tcp dport != @served_{v} goto unserved"
            for v in versions
        ],
        "input": [
            f'iif != "lo" fib daddr type local tcp dport != {TUNNEL_PORT} {first} goto unheard'
        ],
    }
    # Behind connection tracking, so that a reset is known to belong to what it answers; what comes
    # in also behind `capture`, which hides Envoy's ports.
    hooks = {
        "output": "{ type filter hook output priority -150; policy accept; }",
        "input": "{ type filter hook prerouting priority -149; policy accept; }",
    }
    for name in chains:
        lines.append(f"add chain inet {TABLE} {name} {hooks.get(name, '')}")
        lines.append(f"flush chain inet {TABLE} {name}")
    if not unheard:
        del chains["unheard"], chains["input"]
    for name, rules in chains.items():
        lines += [f"add rule inet {TABLE} {name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def no_refusal_rules() -> str:
    """The table's removal as an nftables transaction, also where it isn't there."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


class KernelRefusals:
    """Keeps the sets in all captured pods as the Services are, and reads what they count.

    Args:
        most: How many entries there may be, as of `MOST_ENTRIES`.
    """

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._services: Mapping[str, Service] = {}
        self._declared: frozenset[tuple[str, int]] | None = None
        self._entries: Counter[_Entry] = Counter()
        self._changes = 0
        self._size = 0
        self._pods: dict[str, SetElements] = {}
        self._loaded: set[str] = set()
        self._counts: dict[str, Mapping[Counted, int]] = {}

    def update(self, services: Mapping[str, Service]) -> None:
        """Go by these Services from now on, by ``NAMESPACE/NAME``, in all pods at once.

        Where there were too many before and are no longer, in each pod from the next `follow` on.
        """
        changes = difference(self._services, services)
        former = [self._services[key] for key in changes.upserted if key in self._services]
        gone, come = (*changes.removed.values(), *former), tuple(changes.upserted.values())
        if gone or come:
            self._services, self._declared = services, None
        fitted = self._fits
        self._size += sum(map(_size, come)) - sum(map(_size, gone))
        if self._fits and fitted:
            added, removed = self._recount(gone, come)
            if added or removed:
                self._changes += 1
                self._change(_changes(added, removed))
        elif self._fits is not fitted:
            _log.info("refuses what is unserved", it_does=self._fits, entries=self._size)
            self._entries = _count(services.values() if self._fits else ())
            self._changes += 1
            for uid in tuple(self._loaded):
                self._refuse_nothing(uid)

    async def follow(self, pods: Mapping[str, SetElements]) -> None:
        """Keep the sets in these pods from now on: their sets by UID."""
        # A pod may come back in another namespace under its UID.
        for uid in [uid for uid, sets in self._pods.items() if pods.get(uid) is not sets]:
            del self._pods[uid]
            self._loaded.discard(uid)
            self._counts.pop(uid, None)
        come = {uid: sets for uid, sets in pods.items() if uid not in self._pods}
        self._counts |= await read_counts(come, TABLE, (*_REFUSED, *_UNHEARD))
        self._pods |= come
        for uid in self._pods.keys() - self._loaded:
            await self._load(uid)

    def close(self) -> None:
        """Leave the sets in all pods to another agent."""
        self._pods.clear()
        self._loaded.clear()

    async def refused(self) -> AsyncIterator[ConnectionReport]:
        """What is refused in all pods, soon after, without end."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for each in await self.news():
                yield each
                await asyncio.sleep(0)  # others have their turn, however many there are

    async def news(self) -> list[ConnectionReport]:
        """What was refused in all pods since the last look."""
        pods, told = dict(self._pods), list[ConnectionReport]()
        for uid, counts in (await read_counts(pods, TABLE, (*_REFUSED, *_UNHEARD))).items():
            if self._pods.get(uid) is not pods[uid]:
                continue
            before = self._counts.get(uid, {})
            # What was told of least first: nobody's flood hides the others for long.
            new = dict(
                sorted(increases(counts, before).items(), key=lambda item: before.get(item[0], 0))[
                    :_MOST_TOLD
                ]
            )
            told += [self._unserved(uid, counted, count) for counted, count in new.items()]
            self._counts[uid] = {
                counted: count if counted in new else before.get(counted, 0)
                for counted, count in counts.items()
            }
        return told

    @property
    def _fits(self) -> bool:
        return self._size <= self._most

    def _unserved(self, uid: str, counted: Counted, count: int) -> ConnectionReport:
        """What a number that the kernel has counted stands for."""
        key, port = counted.key[: -_PORT.size], counted.key[-_PORT.size :]
        address, (number,) = str(ip_address(key)), _PORT.unpack(port)
        heard = counted.name in _REFUSED
        reason = Reason.APP_UNREACHABLE
        if heard:
            has_port = (address, number) in self._declared_ports()
            reason = Reason.NO_ENDPOINTS if has_port else Reason.NOT_CONFIGURED
        return ConnectionReport.of_count(
            uid,
            time=datetime.now(UTC),
            count=count,
            outcome=Outcome.FAILED,
            reason=reason,
            side=Side.CLIENT if heard else Side.SERVER,
            other=address,
            port=number,
        )

    def _declared_ports(self) -> frozenset[tuple[str, int]]:
        """The TCP ports that Services have, served or not; none while there are too many."""
        if self._declared is None:
            self._declared = frozenset(
                (str(ip_address(address)), port.number)
                for service in (self._services.values() if self._fits else ())
                for address in service.cluster_ips
                for port in service.ports
                if port.protocol is Protocol.TCP
            )
        return self._declared

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

    async def _load(self, uid: str) -> None:
        """Bring a pod's sets up to date whatever is in them: by a thread, there may be many."""
        sets = self._pods[uid]

        def load(wanted: frozenset[_Entry]) -> None:
            found = {(name, key) for name in _SETS for key in sets.keys(TABLE, name)}
            sets.commit(transaction(TABLE, _changes(wanted - found, found - wanted)))

        number = -1
        while number != self._changes:
            number = self._changes
            try:
                await asyncio.to_thread(load, frozenset(self._entries))
            except OSError as error:
                self._give_up(uid, error)
                return
        if self._pods.get(uid) is sets:
            self._loaded.add(uid)

    def _change(self, changes: Iterable[SetChange]) -> None:
        message = transaction(TABLE, changes)
        for uid in tuple(self._loaded):
            try:
                self._pods[uid].commit(message)
            except OSError as error:
                self._give_up(uid, error)

    def _give_up(self, uid: str, error: OSError) -> None:
        _log.warning("refuses nothing that is unserved", pod=uid, reason=str(error))
        self._refuse_nothing(uid)

    def _refuse_nothing(self, uid: str) -> None:
        """Refuse nothing in a pod, rather than what is served, until it is loaded once more."""
        self._loaded.discard(uid)
        sets = self._pods.get(uid)
        for version, _ in IP_VERSIONS:
            if sets is None:
                return
            try:
                sets.clear(TABLE, f"virtual_{version}")
            except OSError as error:
                _log.debug("a pod's set can't be cleared", pod=uid, reason=str(error))


_Entry = tuple[str, bytes]
"""A set's name, and the key of an element."""


def _changes(added: Collection[_Entry], removed: Collection[_Entry]) -> list[SetChange]:
    return [
        SetChange(
            name=name,
            added=[key for each, key in added if each == name],
            removed=[key for each, key in removed if each == name],
        )
        for name in _SETS
    ]


def _count(services: Iterable[Service]) -> Counter[_Entry]:
    return Counter(entry for service in services for entry in _entries(service))


def _entries(service: Service) -> Iterator[_Entry]:
    for address in service.cluster_ips:
        version, key = packed(address)
        yield f"virtual_{version}", key
        for port in service.ports:
            # As Envoy balances: over the endpoints of the address's family.
            if port.protocol is Protocol.TCP and any(
                (":" in endpoint.address) == (":" in address) for endpoint in port.endpoints
            ):
                yield f"served_{version}", key + _PORT.pack(port.number)


def _size(service: Service) -> int:
    """The entries there would be if all was served: what goes and comes changes no size."""
    ports = sum(port.protocol is Protocol.TCP for port in service.ports)
    return len(service.cluster_ips) * (1 + ports)
