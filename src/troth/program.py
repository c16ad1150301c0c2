"""Shared by troth's long-running programs: logs, private memory, loops, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

import structlog

from troth.errors import TrothError
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 30.0
_PR_SET_DUMPABLE = 4  # linux/prctl.h


def configure_logs() -> None:
    """Log one line per event, ``key=value``, to standard output."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )


def keep_private() -> None:
    """Prevent core dumps of this process and its children, and access to its memory.

    The limit is one byte rather than zero: a core that is piped to a program (core(5),
    ``core_pattern``) ignores the limit, but with exactly one byte the kernel dumps nothing. For a
    file that is too little to be written.

    The protection of memory (ptrace(2), ``/proc/PID/mem``) doesn't extend to executed programs.

    Raises:
        OSError: The kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


async def run_until_stopped(
    work: Coroutine[Any, Any, None], *, wind_down: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Run ``work`` until it ends by itself, or SIGTERM or SIGINT cancels it.

    Args:
        work: What the program does; its exceptions propagate.
        wind_down: Awaited between the signal and the cancellation.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def stopped() -> None:
        await stop.wait()
        if wind_down is not None:
            await wind_down()

    working, stopping = asyncio.create_task(work), asyncio.create_task(stopped())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        _log.info("stopping")
        working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def woken(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until an event is set, at most ``seconds``; return whether it was set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def keep_doing(
    step: Callable[[], Awaitable[None]], event: asyncio.Event, *, at_least_every: float
) -> None:
    """Take a step whenever ``event`` is set, until cancelled.

    Also take it at regular intervals, and retry it 1 to 30 seconds after an error.
    """
    backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
    while True:
        event.clear()
        try:
            await step()
        except TrothError as error:
            pause = backoff.next()
            _log.warning("will be tried again", reason=str(error), seconds=pause)
            await asyncio.sleep(pause)
            continue
        backoff.reset()
        await woken(event, at_least_every)
