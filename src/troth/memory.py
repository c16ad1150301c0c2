"""Keeps a process that holds private keys from leaving its memory to others."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def keep_private() -> None:
    """Have no core dumped of this process and those that it starts, and let none look into it.

    The limit is one byte and not zero: a core that goes through a pipe (core(5), ``core_pattern``)
    knows no limit, except that with exactly this one the kernel dumps none at all. A file would be
    too short to be written.

    That others can't look into it (ptrace(2), ``/proc/PID/mem``) doesn't pass on to what it
    executes.

    Raises:
        OSError: The kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
