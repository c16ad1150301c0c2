"""Leader election over the API server: drives `Election`, and runs the work while leading.

Two replicas may work at once for a moment, because every write of the controller is bound to the
version that it read. The election saves work and keeps logs readable.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from troth.controller.election import Election, ElectionTiming, LeaseRecord
from troth.errors import TrothError
from troth.kube.errors import ConflictError, NotFoundError
from troth.kube.kinds import LEASE, micro_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from troth.kube.client import ApiClient


_log = structlog.get_logger(__name__)

_JITTER = 0.2
_FAREWELL_SECONDS = 2.0


class LeaderElection:
    """One replica in the election for a Lease.

    Args:
        client: The API server's.
        namespace: The Lease's.
        name: The Lease's.
        identity: A unique name of this replica, never reused.
        timing: How long things take.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: ElectionTiming | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._timing = timing or ElectionTiming()
        self._election = Election(identity, self._timing)
        self._elected = asyncio.Event()
        self._term: asyncio.Timeout | None = None
        self.trouble = "the Lease has not been read yet"

    @property
    def is_leading(self) -> bool:
        """Whether the work runs here."""
        return self._term is not None

    @property
    def holder(self) -> str:
        """Who leads, as far as is known."""
        return self._election.holder

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` whenever this replica leads, until cancelled; then let another lead.

        ``work`` must run until it is cancelled, and then end soon.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._compete())
                tasks.create_task(self._lead(work))
        finally:
            await self._give_back()

    async def _compete(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._timing.renew / 2):
                    await self._attempt()
            except (TrothError, TimeoutError) as error:
                self._election.forget()
                reason = str(error) or "the API server did not answer in time"
                if self.trouble != reason:
                    _log.warning("the election makes no progress", reason=reason)
                self.trouble = reason
            else:
                self.trouble = ""
            self._tell()
            # Random, so that replicas don't act in step.
            await asyncio.sleep(self._timing.retry * (1 + _JITTER * random.random()))  # noqa: S311

    async def _attempt(self) -> None:
        election = self._election
        if election.must_read:
            record, version = await self._read()
            election.saw(record, version, at=_clock())
            self._tell()
        sent = _clock()
        claim = election.claim(at=sent, now=datetime.now(UTC))
        taken = await self._write(claim, election.version) if claim else None
        if claim is None or taken is None:
            election.forget()
        else:
            election.won(claim, taken, sent=sent, at=_clock())

    def _tell(self) -> None:
        """Begin, prolong or end the term."""
        if self._election.leads(_clock()):
            self._elected.set()
        if self._term is not None and not self._term.expired():
            # In the past if the lease is another's.
            self._term.reschedule(max(self._election.leads_until, _clock()))

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._elected.wait()
            self._elected.clear()
            if not self._election.leads(_clock()):
                continue
            _log.info("leading")
            try:
                async with asyncio.timeout_at(self._election.leads_until) as self._term:
                    await work()
            except TimeoutError:
                if self._term is None or not self._term.expired():
                    raise
                _log.warning("leading no longer", holder=self.holder or "unknown")
            finally:
                self._term = None

    async def _read(self) -> tuple[LeaseRecord | None, str]:
        try:
            lease = await self._client.get(LEASE, self._name, self._namespace)
        except NotFoundError:
            return None, ""
        return _record(lease), _version(lease)

    async def _write(self, record: LeaseRecord, version: str) -> str | None:
        """Replace ``version`` of the lease; returns the new one, or None if it isn't the latest."""
        spec = _spec(record)
        try:
            if version:
                patch: dict[str, Any] = {"metadata": {"resourceVersion": version}, "spec": spec}
                lease = await self._client.patch(LEASE, self._name, patch, self._namespace)
            else:
                metadata = ObjectMeta(name=self._name, namespace=self._namespace)
                made = Lease(metadata=metadata, spec=LeaseSpec(**spec))
                lease = await self._client.create(LEASE, made, self._namespace)
        except (ConflictError, NotFoundError):
            return None
        return _version(lease)

    async def _give_back(self) -> None:
        record = self._election.give_back(now=datetime.now(UTC))
        if record is None:
            return
        # A lease that can't be released expires by itself.
        with contextlib.suppress(TrothError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._write(record, self._election.version)


def _clock() -> float:
    """The event loop's clock, as for timeouts."""
    return asyncio.get_running_loop().time()


def _record(lease: Lease) -> LeaseRecord:
    spec = lease.spec or LeaseSpec()
    return LeaseRecord(
        holder=spec.holderIdentity or "",
        duration=spec.leaseDurationSeconds or 0,
        acquired=spec.acquireTime,
        renewed=spec.renewTime,
        transitions=spec.leaseTransitions or 0,
    )


def _spec(record: LeaseRecord) -> dict[str, Any]:
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.duration,
        "acquireTime": micro_time(record.acquired),
        "renewTime": micro_time(record.renewed),
        "leaseTransitions": record.transitions,
    }


def _version(lease: Lease) -> str:
    return (lease.metadata.resourceVersion if lease.metadata else None) or ""
