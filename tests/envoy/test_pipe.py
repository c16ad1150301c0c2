from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from troth.envoy.pipe import AccessLogPipe, LineBuffer
from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from troth.traffic.connection import ConnectionReport

LINE = (
    b'{"t":"2026-11-24T06:05:57.000Z","role":"plain-in","pod":"uid-%d","src":"10.0.0.1:4000",'
    b'"dst":"10.0.0.2:80","flags":"NR","type":"NotSet"}\n'
)


@given(st.lists(st.text("ab", max_size=6)), st.lists(st.integers(1, 9)))
def test_lines_come_out_whole_however_they_are_cut(texts: list[str], cuts: list[int]) -> None:
    lines = [text.encode() for text in texts]
    stream = b"".join(line + b"\n" for line in lines)
    buffer, found = LineBuffer(limit=6), []
    for cut in [*cuts, len(stream)]:
        found += buffer.feed(stream[:cut])
        stream = stream[cut:]
    assert found == lines


@pytest.mark.parametrize("size", [1, 2, 3, 100], ids=str)
def test_a_line_that_is_too_long_is_left_out_and_the_next_one_is_not(size: int) -> None:
    stream = b"ok\n" + b"x" * 50 + b"\nok\n12345\n123456\n"
    buffer, found = LineBuffer(limit=5), []
    for start in range(0, len(stream), size):
        found += buffer.feed(stream[start : start + size])
    assert found == [b"ok", b"ok", b"12345"]
    assert buffer.dropped == 2


@pytest.fixture
def pipe(run_dir: Path) -> Iterator[AccessLogPipe]:
    with AccessLogPipe(run_dir / "log") as pipe:
        yield pipe


def write(pipe: AccessLogPipe, data: bytes) -> None:
    with pipe.path.open("wb", buffering=0) as log:
        log.write(data)


async def take(pipe: AccessLogPipe, count: int) -> list[ConnectionReport]:
    found = []
    async for event in pipe.reports():
        found.append(event)
        if len(found) == count:
            break
    return found


def test_the_fifo_is_ours_alone_and_goes_away(run_dir: Path) -> None:
    with AccessLogPipe(run_dir / "log") as pipe:
        mode = pipe.path.stat().st_mode
        assert stat.S_ISFIFO(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not pipe.path.exists()


def test_a_fifo_of_an_earlier_run_is_replaced(run_dir: Path) -> None:
    os.mkfifo(run_dir / "log", 0o666)
    with AccessLogPipe(run_dir / "log") as pipe:
        assert stat.S_IMODE(pipe.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_fifo_is_left_alone(run_dir: Path, kind: str) -> None:
    (run_dir / "precious").write_text("x")
    if kind == "file":
        (run_dir / "precious").rename(run_dir / "log")
    else:
        (run_dir / "log").symlink_to(run_dir / "precious")
    with pytest.raises(EnvironmentLackError, match="not a FIFO"), AccessLogPipe(run_dir / "log"):
        pass
    assert (run_dir / "log").read_text() == "x"


async def test_events_are_read_as_they_come(pipe: AccessLogPipe) -> None:
    task = asyncio.create_task(take(pipe, 2))
    await asyncio.sleep(0)
    write(pipe, LINE % 1)
    await asyncio.sleep(0)
    half = LINE % 2
    write(pipe, half[:40])
    await asyncio.sleep(0)
    write(pipe, half[40:])
    assert [event.pod for event in await task] == ["uid-1", "uid-2"]


async def test_the_end_of_a_writer_is_no_end(pipe: AccessLogPipe) -> None:
    write(pipe, LINE % 1)
    assert len(await take(pipe, 1)) == 1
    write(pipe, LINE % 2)
    assert [event.pod for event in await take(pipe, 1)] == ["uid-2"]


async def test_garbage_is_counted_and_logged_once(pipe: AccessLogPipe) -> None:
    write(pipe, b"garbage\n{}\n\xff\n" + LINE % 1)
    with capture_logs() as logs:
        assert len(await take(pipe, 1)) == 1
    assert pipe.garbage == 3
    assert [entry["event"] for entry in logs] == ["unreadable access log line"]


async def test_an_endless_line_is_dropped(pipe: AccessLogPipe) -> None:
    write(pipe, b"x" * 50_000 + b"\n")
    write(pipe, LINE % 1)
    assert len(await take(pipe, 1)) == 1
    assert (pipe.oversize, pipe.garbage) == (1, 0)


async def test_a_burst_leaves_other_tasks_their_turn(pipe: AccessLogPipe) -> None:
    count = 3000
    burst = b"".join(LINE % number for number in range(count))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    writer = asyncio.create_task(asyncio.to_thread(write, pipe, burst))
    events = await take(pipe, count)
    await writer
    task.cancel()
    assert [event.pod for event in events] == [f"uid-{number}" for number in range(count)]
    assert turns >= len(burst) // (64 * 1024)


async def test_a_pipe_that_is_not_open_cannot_be_read(run_dir: Path) -> None:
    with pytest.raises(RuntimeError, match="isn't open"):
        await take(AccessLogPipe(run_dir / "log"), 1)
