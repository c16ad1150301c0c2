"""What a program leaves to others of its memory, by the kernel, and how its loops are woken."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from troth import program
from troth.errors import PeerError
from troth.program import woken

CRASH = "import os; {}; os.chdir({!r}); os.abort()"
KEEP = "from troth.program import keep_private; keep_private()"
NO_LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 30))"


def crash(where: Path, first: str) -> int:
    done = subprocess.run([sys.executable, "-c", CRASH.format(first, str(where))], check=False)
    return done.returncode


@pytest.mark.skipif(
    Path("/proc/sys/kernel/core_pattern").read_text() != "core\n",
    reason="this machine's cores go elsewhere than to files",
)
def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    crash(tmp_path, NO_LIMIT)
    assert list(tmp_path.iterdir()), "the machine writes cores"
    (tmp_path / "private").mkdir()
    crash(tmp_path / "private", KEEP)
    assert list((tmp_path / "private").iterdir()) == []


def test_what_it_starts_dumps_no_core_through_a_pipe_either() -> None:
    program = f"{KEEP}; import os; os.execvp('cat', ['cat', '/proc/self/limits'])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["1", "1"]


def test_it_can_not_be_looked_into() -> None:
    program = f"{KEEP}; import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "0\n"


async def test_waiting_ends_when_woken_and_when_the_time_is_over() -> None:
    event = asyncio.Event()
    assert not await woken(event, 0)
    asyncio.get_running_loop().call_soon(event.set)
    assert await woken(event, None)


async def test_a_step_is_taken_when_woken_and_again_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "_FIRST_RETRY_SECONDS", 0.0)
    event, taken = asyncio.Event(), asyncio.Queue[int]()
    fails = iter([True, False, False])

    async def step() -> None:
        taken.put_nowait(taken.qsize())
        if next(fails):
            raise PeerError("the API server", "is away")

    doing = asyncio.create_task(program.keep_doing(step, event, at_least_every=3600))
    await taken.get()
    await taken.get()
    assert not doing.done()
    event.set()
    await taken.get()
    doing.cancel()
