"""Which processes are a path's, and how busy the machine is, as /proc has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4, 7)  # idle, iowait, steal: other machines'
_GUEST = 8  # guest time is counted as user time already


def parse_machine(line: str) -> float:
    """Seconds in which the machine's CPUs weren't idle, from the first line of /proc/stat."""
    ticks = [int(word) for word in line.split()[1:]]
    busy = (value for place, value in enumerate(ticks[:_GUEST]) if place not in _IDLE)
    return sum(busy) / _TICKS


def processes(program: str, marker: str) -> list[int]:
    """Processes of ``program`` with ``marker`` on their command line, and all below them."""
    parents = {pid: parent(pid) for pid in _all()}
    found = {pid for pid in parents if _is(pid, program, marker)}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _all() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _is(pid: int, program: str, marker: str) -> bool:
    try:
        name = Path(f"/proc/{pid}/exe").readlink().name
        return name.startswith(program) and marker.encode() in _read(pid, "cmdline")
    except OSError:  # it has ended, or is the kernel's
        return False


def _stat(pid: int) -> list[bytes]:
    """The fields after the program's name, which may hold spaces and parentheses."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def parent(pid: int) -> int:
    """The process that started this one; 0 when it has ended."""
    try:
        return int(_stat(pid)[1])
    except OSError:
        return 0


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()
