"""What a process that holds keys leaves to others of its memory, seen by the kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CRASH = "import os; {}; os.chdir({!r}); os.abort()"
KEEP = "from troth.memory import keep_private; keep_private()"
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
