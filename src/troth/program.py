"""What troth's long-running programs have in common: they work until they are told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_log = structlog.get_logger(__name__)


async def run_until_stopped(
    work: Coroutine[Any, Any, None], *, wind_down: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Run ``work`` until it ends by itself, or SIGTERM or SIGINT cancels it.

    Args:
        work: What the program does; what it raises is raised.
        wind_down: What is waited for between the signal and the cancelling.
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
