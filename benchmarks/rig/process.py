"""What processes take, as the kernel counts it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")
_KIB = 1024


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """A process's memory, in MB of 10^6 bytes.

    Attributes:
        pss_mb: Its own, and its share of what it shares (``Pss``); less while other processes
            run the same program.
        rss_mb: Its own, and all of what it shares (``Rss``).
        peak_mb: The most that ``rss_mb`` has been (``VmHWM``).
    """

    pss_mb: float
    rss_mb: float
    peak_mb: float


def memory(pid: int, proc: Path = Path("/proc")) -> Memory:
    """A process's memory now.

    Args:
        pid: The process.
        proc: Where it has this number.
    """
    rollup = _fields(proc / str(pid) / "smaps_rollup")
    status = _fields(proc / str(pid) / "status")
    return Memory(pss_mb=rollup["Pss"], rss_mb=rollup["Rss"], peak_mb=status["VmHWM"])


def cpu_seconds(pid: int) -> float:
    """CPU time of all its threads, user and system."""
    after_name = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / _TICKS


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run; none when it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text("ascii").split())
    return found


def named(pids: list[int], name: str) -> int:
    """The one process among ``pids`` whose program is called so."""
    (found,) = (pid for pid in pids if _program(pid) == name)
    return found


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()


def _fields(path: Path) -> dict[str, float]:
    """What the lines in kB say, in MB."""
    lines = (line.split() for line in path.read_text("utf-8").splitlines())
    return {line[0].rstrip(":"): int(line[1]) * _KIB / 1e6 for line in lines if line[-1:] == ["kB"]}
