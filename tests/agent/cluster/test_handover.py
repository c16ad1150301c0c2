"""What two agents say to each other, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, cast

import pytest
from tests.samples import connection

from troth.agent.cluster import handover
from troth.agent.cluster.handover import Charge, Place, Successors, Turn, take_over, take_place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from troth.agent.agent import NodeAgent
    from troth.agent.cluster.handover import Predecessor
    from troth.traffic.connection import Connection


class Holder:
    """An agent that has the node, as far as the other one is concerned."""

    def __init__(self) -> None:
        self.has_it = True
        self.tell: Callable[[Connection], None] = lambda _: None
        self.changed = asyncio.Event()

    async def step_back(self, tell: Callable[[Connection], None]) -> frozenset[str] | None:
        if not self.has_it:
            return None
        self.has_it, self.tell = False, tell
        return frozenset({"uid-1"})

    async def take_charge(self) -> None:
        self.has_it = True
        self.changed.set()


class Scene:
    """A node with an agent on it, and room for the next."""

    def __init__(self, place: Place, successors: Successors, holder: Holder) -> None:
        self.slot = place.own
        self.next = Place(place.other, place.own, Turn(place.own.directory.parent / "charge"))
        self.successors = successors
        self.holder = holder


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    holder = Holder()
    successors = Successors(holder)
    async with take_place(tmp_path) as place, successors.served(place.own.handover):
        yield Scene(place, successors, holder)


async def at_once() -> None:
    """Be prepared."""


async def never() -> None:
    """Not be prepared."""
    await asyncio.Event().wait()


async def taken(scene: Scene) -> Predecessor:
    async with asyncio.timeout(20):
        predecessor = await take_over(scene.next, at_once)
    assert predecessor is not None
    return predecessor


async def test_who_is_prepared_has_the_node_and_what_can_not_be_known_otherwise(
    scene: Scene,
) -> None:
    predecessor = await taken(scene)
    assert not scene.holder.has_it
    assert predecessor.handover.joining == {"uid-1"}
    predecessor.close()


async def test_another_user_is_not_handed_the_node_nor_told_of_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)  # so that we are the other one
    reader, writer = await asyncio.open_unix_connection(scene.slot.handover)
    with contextlib.closing(writer):
        writer.write(b"take\n")
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
    assert scene.holder.has_it
    assert not scene.successors.are_there
    monkeypatch.undo()
    predecessor = await taken(scene)
    assert not scene.holder.has_it
    predecessor.close()


async def test_who_is_not_prepared_is_there_but_leaves_the_node_alone(scene: Scene) -> None:
    waiting = asyncio.create_task(take_over(scene.next, never))
    async with asyncio.timeout(20):
        while not scene.successors.are_there:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert scene.holder.has_it
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(20):
        while scene.successors.are_there:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert scene.holder.has_it


async def test_the_new_agent_hears_of_the_old_ones_connections(scene: Scene) -> None:
    predecessor = await taken(scene)
    seen = connection()
    scene.holder.tell(seen)
    with contextlib.closing(predecessor):
        async with asyncio.timeout(20):
            assert await anext(aiter(predecessor.connections())) == seen


async def test_the_node_is_the_old_agents_again_when_the_new_one_ends(scene: Scene) -> None:
    predecessor = await taken(scene)
    predecessor.close()
    async with asyncio.timeout(20):
        await scene.holder.changed.wait()
    assert scene.holder.has_it


async def test_without_an_agent_before_there_is_nobody_to_ask(tmp_path: Path) -> None:
    async with take_place(tmp_path) as place:
        assert await take_over(place, never) is None


async def test_an_agent_that_ends_before_it_hands_over_is_not_waited_for(tmp_path: Path) -> None:
    async with take_place(tmp_path) as first:
        async with take_place(tmp_path) as second, Successors(Holder()).served(second.own.handover):
            waiting = asyncio.create_task(take_over(first, never))
            done, _ = await asyncio.wait({waiting}, timeout=0.3)
            assert not done
        async with asyncio.timeout(20):
            assert await waiting is None
        assert not first.other.is_taken


async def test_an_agent_that_does_not_answer_is_asked_again_and_its_late_answer_is_void(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, late, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hang(_: Callable[[Connection], None]) -> frozenset[str]:
        asked.set()
        await late.wait()
        answered.set()
        return frozenset()

    monkeypatch.setattr(handover, "_ANSWER_SECONDS", 0.2)
    with monkeypatch.context() as first_time:
        first_time.setattr(scene.holder, "step_back", hang)
        waiting = asyncio.create_task(take_over(scene.next, at_once))
        await asked.wait()
    async with asyncio.timeout(20):
        predecessor = await waiting
    assert predecessor is not None
    with contextlib.closing(predecessor):
        late.set()
        await answered.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await scene.holder.changed.wait()
        assert not scene.holder.has_it


class Agent:
    """As much of an agent as its charge sees."""

    def __init__(self) -> None:
        self.acts = False
        self.is_connected = True
        self.looks = 0
        self.changed = asyncio.Event()

    def take_charge(self, _: object = ()) -> None:
        self.acts = True
        self.changed.set()

    async def step_back(self, _: object) -> frozenset[str]:
        await asyncio.sleep(0)
        self.acts = False
        return frozenset()

    async def connected(self) -> bool:
        self.looks += 1
        return self.is_connected


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_DRAIN_LOOK_SECONDS", 0.05)


@contextlib.asynccontextmanager
async def charged(tmp_path: Path) -> AsyncIterator[tuple[Agent, Charge]]:
    """An agent on the node, which takes charge when it can."""
    agent = Agent()
    async with take_place(tmp_path) as place, asyncio.TaskGroup() as tasks:
        charge = Charge(cast("NodeAgent", agent), place)
        charge.prepared.set()
        running = tasks.create_task(charge.run(at_once))
        try:
            yield agent, charge
        finally:
            running.cancel()


async def test_of_two_agents_that_start_at_once_one_acts(tmp_path: Path) -> None:
    for _ in range(5):
        async with charged(tmp_path) as (one, _), charged(tmp_path) as (other, _):
            async with asyncio.timeout(20):
                while not (one.acts or other.acts):  # noqa: ASYNC110 - either of them
                    await asyncio.sleep(0)
            for _ in range(1000):
                assert not (one.acts and other.acts)
                await asyncio.sleep(0)


async def test_of_two_agents_that_start_at_once_the_one_that_is_left_acts(tmp_path: Path) -> None:
    async with charged(tmp_path) as (one, _):
        async with charged(tmp_path) as (other, _):
            async with asyncio.timeout(20):
                while not (one.acts or other.acts):  # noqa: ASYNC110 - either of them
                    await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while not one.acts:  # noqa: ASYNC110 - again, or still
                await asyncio.sleep(0.01)


async def test_an_agent_that_is_to_be_followed_goes_on_until_it_is_and_its_connections_ended(
    tmp_path: Path,
) -> None:
    async with charged(tmp_path) as (old, charge), asyncio.timeout(20):
        await old.changed.wait()
        ending = asyncio.create_task(charge.drained(100, is_followed=lambda: True))
        async with charged(tmp_path) as (new, _):
            await new.changed.wait()
            assert not ending.done()
            old.is_connected = False
            await ending


async def test_an_agent_that_has_handed_over_waits_for_connections_that_still_come(
    tmp_path: Path,
) -> None:
    async with charged(tmp_path) as (old, charge), asyncio.timeout(20):
        await old.changed.wait()
        old.is_connected = False
        async with charged(tmp_path) as (new, _):
            await new.changed.wait()
            await charge.drained(100, is_followed=lambda: True)
            assert old.looks == handover._QUIET_LOOKS


async def test_an_agent_that_nobody_follows_does_not_wait(tmp_path: Path) -> None:
    async with charged(tmp_path) as (agent, charge), asyncio.timeout(20):
        await agent.changed.wait()
        await charge.drained(100, is_followed=lambda: False)
        assert agent.acts


async def test_an_agent_goes_on_no_longer_than_it_is_told(tmp_path: Path) -> None:
    async with charged(tmp_path) as (agent, charge), asyncio.timeout(20):
        await agent.changed.wait()
        await charge.drained(0.01, is_followed=lambda: True)


async def test_an_agent_that_is_to_end_gives_the_node_back_to_one_that_stays(
    tmp_path: Path,
) -> None:
    async with charged(tmp_path) as (old, _), asyncio.timeout(20):
        await old.changed.wait()
        old.changed.clear()
        async with charged(tmp_path) as (new, charge):
            await new.changed.wait()
            ending = asyncio.create_task(charge.drained(100, is_followed=lambda: True))
            await old.changed.wait()
            assert not new.acts
            assert not ending.done()
            new.is_connected = False
            await ending


async def test_an_agent_that_is_to_end_keeps_the_node_from_one_that_ends_as_well(
    tmp_path: Path,
) -> None:
    async with charged(tmp_path) as (old, first), asyncio.timeout(20):
        await old.changed.wait()
        async with charged(tmp_path) as (new, second):
            await new.changed.wait()
            ending = asyncio.create_task(first.drained(100, is_followed=lambda: True))
            await asyncio.sleep(0)
            await second.drained(0.2, is_followed=lambda: True)
            assert new.acts
            assert not old.acts
            ending.cancel()
