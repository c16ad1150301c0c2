"""Memory that a burst of work has freed goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes

_QUIET_SECONDS = 2.0

# Of glibc. Freed memory below the top of its heap stays resident until somebody asks.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class MemoryKeeper:
    """Gives freed memory back whenever there has been work and then none for a while.

    Not while there is work: what was just freed is wanted again at once then. To be used in a
    running event loop.
    """

    def __init__(self) -> None:
        self._alarm: asyncio.TimerHandle | None = None

    def worked(self) -> None:
        """Take note that something was done just now."""
        self.close()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(_QUIET_SECONDS, give_back)

    def close(self) -> None:
        """Forget about it."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


def give_back() -> None:
    """Give freed memory back now, where the C library can; takes some milliseconds."""
    if _trim is not None:
        _trim(0)
