"""Counts of connections by client, server and outcome, in bounded memory.

At a high rate single events are soon dropped; counts are not. Every connection adds to the total of
its kind, and to that of the interval it began in: five minutes, or an hour once it is two hours
old. Nothing is kept longer than a week.

Strangers (addresses that don't belong to a pod) can't make the tally grow without bound: beyond
`Tally`'s ``most`` totals, new strangers are counted together as `OTHERS`. What a workload accepted
in plaintext, and at which port, is never lost that way.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.traffic.connection import Connection, Outcome, Reason, Side

if TYPE_CHECKING:
    from troth.policy.model import Mode
    from troth.policy.verdict import DecidedBy

OTHERS = "(others)"
"""Stands for addresses that don't belong to a pod, once there are too many to name."""

KEPT = timedelta(days=7)

_MINUTES_5 = 300
_HOUR = 3600
_FINE_SECONDS = 2 * _HOUR


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """All connections of one kind: same ends, same outcome, same reason, same policy.

    Attributes:
        source: ``NAMESPACE/NAME`` of the client's workload, or its IP if the workload is unknown.
        destination: The same for the server.
        port: The server's; 0 if ports are counted together (see `OTHERS`).
        count: How many there were in the requested time, rounded up to whole intervals.
        first: When the oldest one still counted began.
        last: When the newest began.
        newest: The newest, with all its details.
    """

    source: str
    destination: str
    port: int
    count: int
    first: datetime
    last: datetime
    newest: Connection

    @classmethod
    def of(cls, connection: Connection) -> Total:
        """The total of one connection."""
        return cls(
            source=connection.source.name,
            destination=connection.destination.name,
            port=connection.destination.port,
            count=connection.count,
            first=connection.time,
            last=connection.time,
            newest=connection,
        )


class _Seen(msgspec.Struct, kw_only=True):
    """A total as it grows; ``slots`` counts by the start of each interval (seconds since 1970)."""

    source: str
    destination: str
    port: int
    first: datetime
    newest: Connection
    slots: dict[int, int]


class TallyState(msgspec.Struct, frozen=True, kw_only=True):
    """A tally as a value, to store and restore."""

    complete_since: datetime
    fine_since: int
    seen: tuple[_Seen, ...]


class _Key(NamedTuple):
    source: str
    destination: str
    port: int
    outcome: Outcome
    reason: Reason
    side: Side
    mode: Mode | None
    decided_by: DecidedBy | None


class Tally:
    """Counts connections.

    Args:
        since: When counting began.
        most: How many totals to keep before strangers are no longer named. The hard limit is
            twice as many; beyond it, the totals idle for longest are dropped.
    """

    def __init__(self, since: datetime, *, most: int = 4096) -> None:
        self._complete_since = since
        self._most = most
        self._fine_since = 0
        self._seen: dict[_Key, _Seen] = {}

    @classmethod
    def restored(cls, state: TallyState, *, most: int = 4096) -> Tally:
        """The inverse of `state`."""
        tally = cls(state.complete_since, most=most)
        tally._fine_since = state.fine_since
        for seen in state.seen:
            tally._seen[_key(seen.newest, seen.source, seen.destination, seen.port)] = seen
        return tally

    @property
    def complete_since(self) -> datetime:
        """From this moment on nothing is missing."""
        return self._complete_since

    def state(self) -> TallyState:
        """The input of `restored`; encode it before adding anything."""
        return TallyState(
            complete_since=self._complete_since,
            fine_since=self._fine_since,
            seen=tuple(self._seen.values()),
        )

    def add(self, connection: Connection) -> None:
        """Count a connection."""
        began = int(connection.time.timestamp())
        if began - _FINE_SECONDS - _HOUR >= self._fine_since:
            self._age(connection.time)
        seen = self._place(connection)
        start = began - began % self._length(began)
        seen.slots[start] = seen.slots.get(start, 0) + connection.count
        seen.first = min(seen.first, connection.time)
        if connection.time >= seen.newest.time:
            seen.newest = connection

    def totals(self, since: datetime | None = None) -> tuple[Total, ...]:
        """The totals since then (or all), newest first."""
        start = 0.0 if since is None else since.timestamp()
        found = []
        for seen in self._seen.values():
            if since is not None and seen.newest.time < since:
                continue
            found.append(
                Total(
                    source=seen.source,
                    destination=seen.destination,
                    port=seen.port,
                    count=sum(
                        count
                        for slot, count in seen.slots.items()
                        if slot + self._length(slot) > start
                    ),
                    first=seen.first,
                    last=seen.newest.time,
                    newest=seen.newest,
                )
            )
        return tuple(sorted(found, key=lambda total: total.last, reverse=True))

    def _place(self, connection: Connection) -> _Seen:
        """The total that a connection belongs to."""
        source, destination = connection.source.name, connection.destination.name
        key = _key(connection, source, destination, connection.destination.port)
        if key not in self._seen and len(self._seen) >= self._most:
            key = _folded(key, connection)
        if (seen := self._seen.get(key)) is not None:
            return seen
        if len(self._seen) >= 2 * self._most:
            self._forget()
        seen = _Seen(
            source=key.source,
            destination=key.destination,
            port=key.port,
            first=connection.time,
            newest=connection,
            slots={},
        )
        self._seen[key] = seen
        return seen

    def _length(self, start: int) -> int:
        return _MINUTES_5 if start >= self._fine_since else _HOUR

    def _age(self, now: datetime) -> None:
        """Merge older intervals into hours, and drop what is older than a week."""
        moment = int(now.timestamp()) - _FINE_SECONDS
        self._fine_since = moment - moment % _HOUR
        oldest = int((now - KEPT).timestamp())
        for key, seen in list(self._seen.items()):
            if seen.newest.time < now - KEPT:
                del self._seen[key]
                continue
            kept: dict[int, int] = {}
            for slot, count in seen.slots.items():
                start = slot if slot >= self._fine_since else slot - slot % _HOUR
                if start + _HOUR > oldest:
                    kept[start] = kept.get(start, 0) + count
            seen.slots = kept
            seen.first = max(seen.first, datetime.fromtimestamp(min(kept, default=0), UTC))
        self._complete_since = max(self._complete_since, now - KEPT)

    def _forget(self) -> None:
        quiet = sorted(self._seen.items(), key=lambda item: item[1].newest.time)
        for key, seen in quiet[: self._most // 2]:
            del self._seen[key]
            self._complete_since = max(self._complete_since, seen.newest.time)


def _key(connection: Connection, source: str, destination: str, port: int) -> _Key:
    return _Key(
        source=source,
        destination=destination,
        port=port,
        outcome=connection.outcome,
        reason=connection.reason,
        side=connection.side,
        mode=connection.mode,
        decided_by=connection.decided_by,
    )


def _folded(key: _Key, connection: Connection) -> _Key:
    """A key whose number strangers can't increase: the mesh bounds it."""
    # Only ports where an app answers have accepted connections.
    passed = connection.outcome in {Outcome.ACCEPTED, Outcome.PLAINTEXT}
    return key._replace(
        source=key.source if connection.source.workload else OTHERS,
        destination=key.destination if connection.destination.workload else OTHERS,
        port=key.port if passed else 0,
    )
