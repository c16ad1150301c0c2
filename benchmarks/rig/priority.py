"""What is measured, ahead of all else that the machine does."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rig.process import children

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOWEST = 1  # of real-time priorities, all of which go before ordinary work


@contextlib.contextmanager
def ahead_of_others() -> Iterator[None]:
    """Have this process, and all it has started, wait for no other work of the machine.

    While the block runs they are scheduled as real-time (``SCHED_RR``), where that is permitted
    (CAP_SYS_NICE). The kernel leaves ordinary work a twentieth of each CPU all the same.
    """
    _schedule(os.SCHED_RR, _LOWEST)
    try:
        yield
    finally:
        _schedule(os.SCHED_OTHER, 0)


def _schedule(policy: int, priority: int) -> None:
    for pid in _family(os.getpid()):
        # A thread may end meanwhile.
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, PermissionError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for child in children(pid):
        yield from _family(child)
