"""The election's driver against an API server that can be cut off."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

from troth.controller.election import ElectionTiming
from troth.controller.leader import LeaderElection
from troth.errors import PeerError
from troth.kube.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from troth.kube.client import ApiClient

TIMING = ElectionTiming(lease=3, renew=1.5, retry=0.02)


API = "the API server"


class OneLease:
    """The part of the client that the election uses, and a Lease behind it."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.version = 0
        self.cut_off = False

    @property
    def holder(self) -> str | None:
        return self.lease.spec.holderIdentity if self.lease and self.lease.spec else None

    async def get(self, *_: Any, **__: Any) -> Lease:
        self._reach()
        if self.lease is None:
            raise NotFoundError(API, "no")
        return self.lease

    async def create(self, _: Any, lease: Lease, __: str) -> Lease:
        self._reach()
        if self.lease is not None:
            raise ConflictError(API, "no")
        return self._store(lease.spec)

    async def patch(self, _: Any, __: str, patch: dict[str, Any], ___: str) -> Lease:
        self._reach()
        if patch["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError(API, "no")
        return self._store(msgspec.convert(patch["spec"], LeaseSpec))

    def _reach(self) -> None:
        if self.cut_off:
            raise PeerError(API, "connection refused")

    def _store(self, spec: LeaseSpec | None) -> Lease:
        self.version += 1
        metadata = ObjectMeta(name="troth-controller", resourceVersion=str(self.version))
        self.lease = Lease(metadata=metadata, spec=spec)
        return self.lease


class Replica:
    def __init__(self, server: OneLease, identity: str, timing: ElectionTiming = TIMING) -> None:
        self.election = LeaderElection(
            cast("ApiClient", server),
            namespace="troth-system",
            name="troth-controller",
            identity=identity,
            timing=timing,
        )
        self.terms = 0
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    async def work(self) -> None:
        self.terms += 1
        self.ended.clear()
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.began.clear()
            self.ended.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.election.run(self.work))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_the_work_runs_while_leading_and_the_lease_is_given_back_after_it() -> None:
    server = OneLease()
    replica = Replica(server, "a")
    async with replica.running():
        await replica.began.wait()
        assert server.holder == "a"
        assert replica.election.is_leading
    assert replica.ended.is_set()
    assert server.holder == ""


async def test_a_leader_that_is_cut_off_stops_working_and_says_why_and_comes_back() -> None:
    server = OneLease()
    replica = Replica(server, "a")
    async with replica.running():
        await replica.began.wait()
        server.cut_off = True
        await replica.ended.wait()
        assert not replica.election.is_leading
        assert "connection refused" in replica.election.trouble
        server.cut_off = False
        await replica.began.wait()
        assert replica.election.is_leading


async def test_a_leader_leads_on_while_its_lease_is_renewed() -> None:
    server = OneLease()
    replica = Replica(server, "a")
    async with replica.running():
        await replica.began.wait()
        while server.version < 90:  # noqa: ASYNC110 - longer than one renewal deadline
            await asyncio.sleep(0)
    assert replica.terms == 1


async def test_a_lease_taken_by_another_ends_the_work_long_before_its_time() -> None:
    server = OneLease()
    replica = Replica(server, "a", ElectionTiming(lease=900, renew=600.0, retry=0.02))
    async with replica.running():
        await replica.began.wait()
        server._store(LeaseSpec(holderIdentity="b", leaseDurationSeconds=15))
        await replica.ended.wait()
        assert replica.election.holder == "b"


async def test_a_follower_leads_as_soon_as_the_leader_ends() -> None:
    server = OneLease()
    leader, follower = Replica(server, "a"), Replica(server, "b")
    async with contextlib.AsyncExitStack() as ends:
        async with leader.running():
            await leader.began.wait()
            await ends.enter_async_context(follower.running())
            while not follower.election.holder:  # noqa: ASYNC110 - it has no event to tell
                await asyncio.sleep(0)
            assert not follower.began.is_set()
        await follower.began.wait()
        assert server.holder == "b"


async def test_what_the_work_raises_comes_out() -> None:
    async def fail() -> None:
        raise TimeoutError("of the work's own")

    with pytest.raises(ExceptionGroup) as caught:
        await Replica(OneLease(), "a").election.run(fail)
    assert caught.group_contains(TimeoutError, match="of the work's own")
