"""Two agents on a node, and no third."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from troth.agent.cluster.handover import take_place

if TYPE_CHECKING:
    from pathlib import Path


async def test_two_agents_have_directories_and_ports_of_their_own(tmp_path: Path) -> None:
    async with take_place(tmp_path) as first, take_place(tmp_path) as second:
        assert (first.own, first.other) == (second.other, second.own)
        assert first.own.directory != second.own.directory
        assert set(first.own.ports).isdisjoint(second.own.ports)


async def test_a_slot_is_taken_for_as_long_as_its_agent_lives(tmp_path: Path) -> None:
    async with take_place(tmp_path) as first:
        assert not first.other.is_taken
        async with take_place(tmp_path):
            assert first.other.is_taken
        assert not first.other.is_taken


async def test_a_third_agent_waits_until_there_is_room(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as ends:
        first = await ends.enter_async_context(take_place(tmp_path))
        async with take_place(tmp_path) as second:
            third = asyncio.create_task(ends.enter_async_context(take_place(tmp_path)))
            done, _ = await asyncio.wait({third}, timeout=0.5)
            assert not done
        async with asyncio.timeout(20):
            assert (await third).own == second.own
        assert first.own != second.own


async def test_only_their_owner_sees_into_the_slots(tmp_path: Path) -> None:
    async with take_place(tmp_path / "run") as place:
        assert place.own.directory.stat().st_mode & 0o077 == 0
