"""Leader election by a Lease: client-go's rules, without I/O.

The input is what one replica sees of the lease, and when; the output is whether it leads, and what
it should write next. Times are seconds of this machine's monotonic clock. Other machines' clocks
are never compared with it: a lease expires when it has been *seen* unchanged for its whole
duration, and the times in it are for people. Two replicas never lead at once because of the API
server's optimistic concurrency, and if clocks run equally fast, within the third by which the
renewal deadline is shorter than the lease.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import NamedTuple

import msgspec


class ElectionTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long things take, in seconds; client-go's defaults.

    Attributes:
        lease: How long others respect the lease after they saw it renewed.
        renew: How long its holder leads after its last successful renewal.
        retry: Between two attempts.
    """

    lease: int = 15
    renew: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease > self.renew > self.retry > 0:
            raise ValueError("a lease must outlast its renewal, and that several attempts")


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The relevant fields of ``LeaseSpec`` (coordination.k8s.io/v1).

    Attributes:
        holder: Who has it; empty after it was released.
        duration: Seconds, by the holder's own settings.
        acquired: When the holder got it, by its wall clock.
        renewed: When it last renewed it, by its wall clock.
        transitions: How often the holder changed.
    """

    holder: str
    duration: int
    acquired: datetime | None = None
    renewed: datetime | None = None
    transitions: int = 0


class _Seen(NamedTuple):
    record: LeaseRecord | None
    version: str
    at: float


class Election:
    """One replica's part in the election.

    Its driver reads the lease while `must_read` and calls `saw`; asks `claim` for what to write,
    and calls `won` after the server has accepted that. After any error it calls `forget`.

    Args:
        identity: A unique name of this replica, never reused.
        timing: How long things take.
    """

    def __init__(self, identity: str, timing: ElectionTiming) -> None:
        self._identity = identity
        self._timing = timing
        self._seen: _Seen | None = None
        self._leads_until = -math.inf
        self.must_read = True

    @property
    def holder(self) -> str:
        """Who has the lease; empty if nobody or unknown."""
        return self._seen.record.holder if self._seen and self._seen.record else ""

    @property
    def version(self) -> str:
        """``metadata.resourceVersion`` that a write must replace; empty to create the lease."""
        return self._seen.version if self._seen else ""

    @property
    def leads_until(self) -> float:
        """When this replica stops leading unless it wins again before; long past if it has."""
        return self._leads_until

    def leads(self, at: float) -> bool:
        """Whether this replica leads."""
        return at < self._leads_until

    def saw(self, record: LeaseRecord | None, version: str, *, at: float) -> None:
        """Record what was read; ``record`` is None and ``version`` empty if there is no lease.

        Args:
            record: The lease.
            version: Its ``metadata.resourceVersion``.
            at: When the answer came, or later; never earlier.
        """
        self.must_read = False
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(record, version, at)
        if record is None or record.holder != self._identity:
            self._leads_until = -math.inf

    def claim(self, *, at: float, now: datetime) -> LeaseRecord | None:
        """What to write to get or keep the lease; None while it is another's.

        Args:
            at: By the monotonic clock.
            now: By the wall clock.
        """
        if self._seen is None:
            return None
        old = self._seen.record
        if old is not None and old.holder == self._identity:
            return msgspec.structs.replace(old, duration=self._timing.lease, renewed=now)
        if old is not None and old.holder and at < self._seen.at + old.duration:
            return None
        return LeaseRecord(
            holder=self._identity,
            duration=self._timing.lease,
            acquired=now,
            renewed=now,
            transitions=old.transitions + 1 if old else 0,
        )

    def won(self, record: LeaseRecord, version: str, *, sent: float, at: float) -> None:
        """Record that the server accepted ``record``.

        Args:
            record: The result of `claim`.
            version: The new ``metadata.resourceVersion``.
            sent: When the write was sent, or earlier; never later. Others may have seen it since.
            at: When the answer came.
        """
        self._seen = _Seen(record, version, at)
        self._leads_until = sent + self._timing.renew

    def forget(self) -> None:
        """Record a failed attempt: the lease may be another's, so it must be read again.

        A leader keeps leading: until its time expires nobody else can have waited long enough.
        """
        self.must_read = True

    def give_back(self, *, now: datetime) -> LeaseRecord | None:
        """What to write to release the lease, so that another may lead at once; None if not ours.

        After this call this replica no longer leads.
        """
        self._leads_until = -math.inf
        old = self._seen.record if self._seen else None
        if old is None or old.holder != self._identity:
            return None
        return LeaseRecord(
            holder="", duration=1, acquired=now, renewed=now, transitions=old.transitions
        )
