"""Limits for connections to the tunnels of a node's pods from addresses without a proven identity.

A connection to the tunnel occupies the node's Envoy until its client has proved its identity, or
timed out. So that strangers can't occupy all of it, the kernel rate-limits their first packets
(SYN): per address, per IPv6 network, and for all together. A dropped SYN is retransmitted after a
second, so a client that connects often by chance isn't refused.

When a client has proved an identity, its address becomes a peer, until an hour after its last
connection, and has only the pod's limit (`troth.envoy.limits.Limits`). An address that repeatedly
proves nothing stops being a peer: it may belong to another pod now.

Recent peers of the node's other pods are also peers of a pod that joins, so that its clients don't
start with a dropped SYN.

The rules have their own table, because that of `capture` is replaced as a whole. Their sets survive
an agent, and its successor keeps using them. They also survive a release, so that a pod that comes
back has its peers.
"""

from __future__ import annotations

import asyncio
import ipaddress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from troth.agent.set_elements import (
    FIRST_PACKET,
    IP_VERSIONS,
    SetChange,
    increases,
    packed,
    read_counts,
    transaction,
)
from troth.envoy.limits import HANDSHAKE_SECONDS, HELLO_SECONDS
from troth.mesh.ports import TUNNEL_PORT
from troth.traffic.connection import ConnectionReport, Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Mapping

    from troth.agent.set_elements import Counted, SetElements
    from troth.envoy.limits import Limits

_log = structlog.get_logger(__name__)

TABLE = "troth_strangers"

_PEER_SECONDS = 3600
_TOLD_SECONDS = _PEER_SECONDS / 2
"""How long the kernel certainly keeps a peer: it drops one an hour after its last SYN."""

_UNPROVED = frozenset(
    {
        Reason.NO_HANDSHAKE,
        Reason.NOT_TLS,
        Reason.NO_CLIENT_CERTIFICATE,
        Reason.HANDSHAKE_FAILED,
        Reason.BAD_SERVER_NAME,
    }
)
"""Reasons of clients of the tunnel that don't even try to authenticate."""

_WINDOW_SECONDS = 10.0
_PARDON_SECONDS = 10.0
"""How long a former peer that proved nothing stays a stranger. Not long: it may be an honest peer
on an overloaded node."""

_LOOK_SECONDS = 2.0
_SUSPECT_SECONDS = 60.0
_SWEEP_SECONDS = 30.0
"""Seconds between checks of pods where Envoy has seen nothing: mere SYNs never reach it."""

_MOST_PEERS = 65_536
_MOST_STRANGERS = 4096
_MOST_DROPPED = 256
"""Reported addresses: the agent has to read them all."""
_MOST_TOLD = 16_384
"""For all pods together; dropped ones are added to the kernel's set again."""
_MOST_INTRODUCED = 1024
"""Per pod: the kernel keeps as many elements for each."""

_VERSIONS = tuple(version for version, _ in IP_VERSIONS)
_NETWORK = "ffff:ffff:ffff:ffff::"
"""A client with one address of an IPv6 network of 64 bits may have them all."""

_ALONE, _TOGETHER = "alone", "together"


class AdmissionLimits(NamedTuple):
    """The rate limits for strangers at a pod's tunnel.

    Attributes:
        burst: Connections from one address at once, then one a second.
        total_burst: Connections of all strangers at once.
        total_rate: Further connections of all strangers, per second.
    """

    burst: int
    total_burst: int
    total_rate: int

    @classmethod
    def of(cls, limits: Limits) -> AdmissionLimits:
        """Limits that reserve half of a pod's connections for peers.

        They also reserve at least half of the node's if one address floods 110 pods and Envoy may
        have 10,000 connections.
        """
        total = max(_LEAST_TOTAL, limits.pod_connections // 4)
        burst = min(_MOST_BURST, max(_LEAST_BURST, limits.connections // 256))
        return cls(
            burst=min(burst, total // 2),
            total_burst=total,
            total_rate=max(1, total // (HELLO_SECONDS + HANDSHAKE_SECONDS)),
        )


_LEAST_TOTAL, _LEAST_BURST, _MOST_BURST = 8, 4, 64


def admission_rules(limits: AdmissionLimits) -> str:
    """The table as an nftables transaction that keeps the content of its sets.

    A set can't be redefined: a changed one needs a new name.
    """
    own = f"limit rate over 1/second burst {limits.burst} packets"
    half_burst, half_rate = limits.total_burst // 2, max(1, limits.total_rate // 2)
    network = f"limit rate over {half_rate}/second burst {half_burst} packets"
    total = f"limit rate over {limits.total_rate}/second burst {limits.total_burst} packets"
    lines = [f"add table inet {TABLE}"]
    for version in _VERSIONS:
        kind = "ipv4_addr" if version == "ip" else "ipv6_addr"
        for name, size, timeout in (
            (_peers(version), _MOST_PEERS, f"{_PEER_SECONDS}s"),
            (f"strangers_{version}", _MOST_STRANGERS, "30s"),
            (_dropped(version, _ALONE), _MOST_DROPPED, "60s"),
            (_dropped(version, _TOGETHER), _MOST_DROPPED, "60s"),
        ):
            lines.append(
                f"add set inet {TABLE} {name} {{ type {kind}; flags dynamic,timeout; "
                f"size {size}; timeout {timeout}; gc-interval 5s; }}"
            )
    lines.append(
        f"add set inet {TABLE} networks_ip6 {{ type ipv6_addr; flags dynamic,timeout; "
        f"size {_MOST_STRANGERS}; timeout 30s; gc-interval 5s; }}"
    )
    chains = {
        "door": [f"tcp dport {TUNNEL_PORT} {FIRST_PACKET} jump knock"],
        "knock": [
            *(
                f"{v} saddr @{_peers(v)} update @{_peers(v)} {{ {v} saddr }} return"
                for v in _VERSIONS
            ),
            *(f"update @strangers_{v} {{ {v} saddr {own} }} goto {_ALONE}" for v in _VERSIONS),
            f"update @networks_ip6 {{ ip6 saddr & {_NETWORK} {network} }} goto {_TOGETHER}",
            f"{total} goto {_TOGETHER}",
        ],
    }
    for why in (_ALONE, _TOGETHER):
        chains[why] = [
            *(f"update @{_dropped(v, why)} {{ {v} saddr counter }}" for v in _VERSIONS),
            "drop",
        ]
    for name in chains:
        hook = "{ type filter hook prerouting priority -140; policy accept; }"
        lines.append(f"add chain inet {TABLE} {name} {hook if name == 'door' else ''}")
        lines.append(f"flush chain inet {TABLE} {name}")
    for name, rules in reversed(chains.items()):
        lines += [f"add rule inet {TABLE} {name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def idle_admission_rules() -> str:
    """An nftables transaction that removes all limits and keeps the content of the sets."""
    return f"add table inet {TABLE}\nflush table inet {TABLE}\n"


def no_admission_rules() -> str:
    """The table's removal as an nftables transaction; it may be missing."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


class _Record(msgspec.Struct):
    """What is known about an address at a pod."""

    told: float
    since: float
    proved: int = 0
    unproved: int = 0


class TunnelAdmission:
    """Distinguishes strangers from peers, pod by pod.

    Args:
        limits: The rate limits for strangers.
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._doors: dict[str, SetElements] = {}
        self._records: dict[tuple[str, str], _Record] = {}
        # The kernel may have them as peers, from before this agent followed the pod, or of another.
        self._doubts: dict[tuple[str, str], _Record] = {}
        self._known: dict[str, float] = {}
        self._strange_until: dict[tuple[str, str], float] = {}
        self._suspect_until: dict[str, float] = {}
        self._counts: dict[str, Mapping[Counted, int]] = {}
        self._unreported: dict[str, Mapping[Counted, int]] = {}

    async def follow(self, pods: Mapping[str, SetElements]) -> None:
        """Use the rules in these pods from now on: their sets by UID."""
        # A pod may come back in another namespace under its UID.
        for uid in [uid for uid, door in self._doors.items() if pods.get(uid) is not door]:
            del self._doors[uid]
            self._forget(uid)
        come = {uid: door for uid, door in pods.items() if uid not in self._doors}
        self._counts |= await read_counts(come, TABLE, _DROPPED)
        self._doors |= come
        self._introduce(come)

    def close(self) -> None:
        """Leave the rules in all pods to another agent."""
        self._doors.clear()

    async def heard(
        self, reports: AsyncIterator[ConnectionReport]
    ) -> AsyncIterator[ConnectionReport]:
        """Pass reports through, recording those about connections to a pod's tunnel."""
        async for report in reports:
            self.hear(report)
            yield report

    def hear(self, report: ConnectionReport) -> None:
        """Record the outcome of a connection to a pod's tunnel."""
        connection = report.connection
        if connection.side is not Side.SERVER or report.pod not in self._doors:
            return
        if not connection.source.address:
            return
        if connection.peer is not None:
            self._proved(report.pod, connection.source.address)
        elif connection.reason in _UNPROVED:
            self._unproved(report.pod, connection.source.address)

    async def dropped(self) -> AsyncIterator[ConnectionReport]:
        """Reports of strangers' dropped packets, without end."""
        sweep_at = 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = _now()
            if now >= sweep_at:
                pods, sweep_at = set(self._doors), now + _SWEEP_SECONDS
            else:
                pods = {uid for uid, until in self._suspect_until.items() if now < until}
            for each in await self.news(pods):
                yield each

    async def news(self, uids: Collection[str]) -> list[ConnectionReport]:
        """Packets of strangers that were dropped in some pods before the last check.

        A new client with many connections at once is a peer by the next check: all its connections
        succeed.
        """
        doors = {uid: self._doors[uid] for uid in uids if uid in self._doors}
        told: list[ConnectionReport] = []
        for uid, counts in (await read_counts(doors, TABLE, _DROPPED)).items():
            if self._doors.get(uid) is doors[uid]:
                told += self._dropped_before(uid)
                self._unreported[uid] = increases(counts, self._counts.get(uid, {}))
                self._counts[uid] = counts
        return told

    def _forget(self, uid: str) -> None:
        self._suspect_until.pop(uid, None)
        for known in (self._records, self._doubts, self._strange_until):
            for key in [key for key in known if key[0] == uid]:
                del known[key]
        self._counts.pop(uid, None)
        self._unreported.pop(uid, None)

    def _introduce(self, doors: Mapping[str, SetElements]) -> None:
        """Add the recent peers of other pods to these pods' sets."""
        since = _now() - _PEER_SECONDS
        recent = [packed(address) for address, told in self._known.items() if told > since]
        peers = transaction(
            TABLE,
            [
                SetChange(name=_peers(version), added=[key for v, key in recent if v == version])
                for version in _VERSIONS
            ],
        )
        for uid, door in doors.items():
            try:
                door.commit(peers)
            except OSError as error:
                _log.warning("a pod doesn't hear of peers", pod=uid, reason=str(error))

    def _proved(self, uid: str, address: str) -> None:
        key, now = (uid, address), _now()
        record = self._records.get(key)
        if record is not None and now < record.told + _TOLD_SECONDS:
            if now >= record.since + _WINDOW_SECONDS:
                record.since, record.proved, record.unproved = now, 0, 0
            record.proved += 1
            return
        if now < self._strange_until.get(key, now):
            return
        self._strange_until.pop(key, None)
        self._doubts.pop(key, None)
        self._records.pop(key, None)
        _make_room(self._records, _MOST_TOLD)
        self._known.pop(address, None)
        _make_room(self._known, _MOST_INTRODUCED)
        self._known[address] = now
        try:
            version, element = packed(address)
            self._doors[uid].add(TABLE, _peers(version), [element])
        except OSError as error:  # the set is full
            _log.warning("a peer stays a stranger", pod=uid, address=address, reason=str(error))
        self._records[key] = _Record(told=now, since=now, proved=1)

    def _unproved(self, uid: str, address: str) -> None:
        key, now = (uid, address), _now()
        self._suspect_until[uid] = now + _SUSPECT_SECONDS
        record = self._records.get(key) or self._doubts.get(key)
        if record is None:
            _make_room(self._doubts, _MOST_TOLD)
            record = self._doubts[key] = _Record(told=now, since=now)
        if now >= record.since + _WINDOW_SECONDS:
            record.since, record.proved, record.unproved = now, 0, 0
        record.unproved += 1
        if record.unproved <= max(self._limits.burst, record.proved):
            return
        self._doubts.pop(key, None)
        self._known.pop(address, None)
        if self._records.pop(key, None) is not None:
            _make_room(self._strange_until, _MOST_TOLD)
            self._strange_until[key] = now + _PARDON_SECONDS
        try:
            version, element = packed(address)
            self._doors[uid].remove(TABLE, _peers(version), element)
        except OSError as error:
            _log.warning("a stranger stays a peer", pod=uid, address=address, reason=str(error))

    def _dropped_before(self, uid: str) -> Iterator[ConnectionReport]:
        for (name, key), count in self._unreported.pop(uid, {}).items():
            address = str(ipaddress.ip_address(key))
            if (uid, address) not in self._records:
                alone = name in _DROPPED_ALONE
                yield ConnectionReport.of_count(
                    uid,
                    time=datetime.now(UTC),
                    count=count,
                    outcome=Outcome.REFUSED,
                    reason=Reason.TOO_MANY_UNPROVED,
                    side=Side.SERVER,
                    detail="by itself" if alone else "together with others",
                    other=address,
                    port=TUNNEL_PORT,
                )


def _make_room(known: dict[Any, Any], most: int) -> None:
    """Drop the oldest entry if there is no room for another."""
    if len(known) >= most:
        del known[next(iter(known))]


def _peers(version: str) -> str:
    return f"peers_{version}"


def _dropped(version: str, why: str) -> str:
    return f"dropped_{why}_{version}"


_DROPPED_ALONE = tuple(_dropped(version, _ALONE) for version in _VERSIONS)
_DROPPED = (*_DROPPED_ALONE, *(_dropped(version, _TOGETHER) for version in _VERSIONS))


def _now() -> float:
    return asyncio.get_running_loop().time()
