from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.samples import NOON, connection

from troth.traffic.connection import Connection, Party
from troth.traffic.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path


def numbered(number: int) -> Connection:
    return connection(
        time=NOON + timedelta(seconds=number),
        source=Party(address="10.0.0.1", port=number),
        destination=Party(address="10.0.0.2", port=8080, pod="shop/pay-0", workload="shop/pay"),
    )


def ports(connections: Iterable[Connection]) -> list[int]:
    return [each.source.port for each in connections]


@contextlib.asynccontextmanager
async def running(journal: Journal) -> AsyncIterator[Journal]:
    task = asyncio.create_task(journal.run())
    await asyncio.sleep(0)
    try:
        yield journal
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def keep(directory: Path, numbers: Iterable[int], **options: int) -> None:
    """One life of an agent that sees connections."""
    async with running(Journal(directory, now=NOON, **options).open()) as journal:
        for number in numbers:
            journal.add(numbered(number))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the journal's thread does."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.01)


def count(journal: Journal) -> int:
    return sum(total.count for total in journal.tally.totals())


async def test_events_and_counts_survive_the_agent(tmp_path: Path) -> None:
    await keep(tmp_path / "events", range(3))
    await keep(tmp_path / "events", range(3, 5))
    journal = Journal(tmp_path / "events", now=NOON + timedelta(days=1)).open()
    assert ports(journal.restored) == [0, 1, 2, 3, 4]
    assert count(journal) == 5
    assert journal.tally.complete_since == NOON


async def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events", now=NOON).open()
    assert not journal.restored
    assert count(journal) == 0


async def test_what_was_added_is_written_soon_without_an_orderly_end(tmp_path: Path) -> None:
    async with running(Journal(tmp_path, now=NOON).open()) as journal:
        journal.add(numbered(7))
        (segment,) = tmp_path.iterdir()
        await until(lambda: b'"port":7,' in segment.read_bytes())


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    await keep(tmp_path / "events", [1])
    directory = tmp_path / "events"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_the_disk_space_is_bounded_and_counts_are_kept_all_the_same(tmp_path: Path) -> None:
    segment = 20_000
    for life in range(30):
        await keep(tmp_path, range(life * 20, life * 20 + 20), segment_bytes=segment)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 3 * segment
    journal = Journal(tmp_path, now=NOON).open()
    assert count(journal) == 600
    restored = ports(journal.restored)
    assert restored == list(range(restored[0], 600))
    assert 20 <= len(restored) < 600


async def test_a_segment_that_is_full_is_followed_by_another(tmp_path: Path) -> None:
    async with running(Journal(tmp_path, now=NOON, segment_bytes=1000).open()) as journal:
        for number in range(10):
            journal.add(numbered(number))
        await until(lambda: not journal._pending)
        journal.add(numbered(10))
        await until(lambda: len(list(tmp_path.iterdir())) > 1)
        added = count(journal)
    assert count(Journal(tmp_path, now=NOON).open()) == added


async def test_only_the_newest_events_are_restored(tmp_path: Path) -> None:
    await keep(tmp_path, range(10))
    assert ports(Journal(tmp_path, now=NOON, kept=3).open().restored) == [7, 8, 9]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-40], id="the last line is cut off"),
        pytest.param(lambda data: data + b"\xff\x00garbage\n", id="a line is garbage"),
        pytest.param(lambda data: data + b'{"time": 5}\n', id="a line is no event"),
        pytest.param(lambda data: data + b"\n\n", id="lines are empty"),
    ],
)
async def test_what_can_be_read_of_a_damaged_segment_is(tmp_path: Path, damage: object) -> None:
    await keep(tmp_path, range(3))
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(damage(segment.read_bytes()))  # type: ignore[operator]  # one of the above
    journal = Journal(tmp_path, now=NOON).open()
    assert ports(journal.restored)[:2] == [0, 1]
    assert count(journal) == len(journal.restored)


async def test_without_any_checkpoint_the_events_are_still_there(tmp_path: Path) -> None:
    await keep(tmp_path, range(3))
    (segment,) = tmp_path.iterdir()
    _, _, events = segment.read_bytes().partition(b"\n")
    segment.write_bytes(b"{}\n" + events)
    journal = Journal(tmp_path, now=NOON).open()
    assert ports(journal.restored) == [0, 1, 2]
    assert count(journal) == 0


async def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(12):
        await keep(tmp_path, range(3))
    assert (tmp_path / "notes.txt").read_text() == "mine"


async def test_a_full_disk_is_told_once_and_overcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True
    write = os.write

    def write_if_there_is_room(file: int, data: memoryview) -> int:
        if full:
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr("troth.traffic.journal.os.write", write_if_there_is_room)
    monkeypatch.setattr("troth.traffic.journal._FLUSH_SECONDS", 0.01)
    with capture_logs() as logs:
        async with running(Journal(tmp_path, now=NOON).open()) as journal:
            for number in range(3):
                journal.add(numbered(number))
                await until(lambda: journal.lost > number)  # noqa: B023 - awaited at once
            full = False
            journal.add(numbered(3))
            await until(lambda: bool(list(tmp_path.glob("*.jsonl"))))
            journal.add(numbered(4))
    assert len(logs) == 1
    assert "No space left" in logs[0]["reason"]
    later = Journal(tmp_path, now=NOON).open()
    assert ports(later.restored) == [4]
    assert count(later) == 5


async def test_a_directory_that_cannot_be_made_does_not_stop_the_agent(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("in the way")
    with capture_logs() as logs:
        async with running(Journal(tmp_path / "events", now=NOON).open()) as journal:
            journal.add(numbered(1))
    assert count(journal) == 1
    assert logs


async def test_one_journal_goes_on_where_another_was_closed(tmp_path: Path) -> None:
    async with (
        running(Journal(tmp_path, now=NOON).open()) as before,
        running(Journal(tmp_path, now=NOON)) as after,
    ):
        before.add(numbered(1))
        before.close()
        after.open()
        before.add(numbered(2))
        after.add(numbered(3))
    assert ports(Journal(tmp_path, now=NOON).open().restored) == [1, 3]
    assert count(after) == 2


async def test_a_journal_that_is_not_open_leaves_the_disk_alone(tmp_path: Path) -> None:
    async with running(Journal(tmp_path, now=NOON)) as journal:
        journal.add(numbered(1))
    assert count(journal) == 1
    assert not list(tmp_path.iterdir())


async def test_a_journal_that_was_closed_can_be_opened_again(tmp_path: Path) -> None:
    async with running(Journal(tmp_path, now=NOON).open()) as journal:
        journal.add(numbered(1))
        journal.close()
        await keep(tmp_path, [2])
        journal.open()
        journal.add(numbered(3))
    assert count(journal) == 3
    assert ports(Journal(tmp_path, now=NOON).open().restored) == [1, 2, 3]
