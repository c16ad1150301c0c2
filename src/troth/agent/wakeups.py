"""Waiting for something without missing events meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Wakeups:
    """Waits for one thing at a time, and handles each wake-up meanwhile.

    Args:
        look: Called on each wake-up during a wait; returns whether it ends the wait.
    """

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self._woken = asyncio.Event()
        self._was_woken = False

    def wake(self) -> None:
        """Signal that something has happened."""
        self._woken.set()

    async def awake(self) -> None:
        """Wait until woken; return at once if that happened during another wait."""
        if not self._was_woken:
            await self._woken.wait()
        self._was_woken = False
        self._woken.clear()

    async def unless_disturbed(self, work: Coroutine[None, None, T]) -> T | None:
        """Wait for ``work``; cancel it and return None as soon as a wake-up ends the wait."""
        task = asyncio.ensure_future(work)
        try:
            return task.result() if await self._undisturbed(task) else None
        finally:
            task.cancel()

    async def finish(self, work: Coroutine[None, None, None]) -> None:
        """Wait until ``work`` is done; wake-ups are still handled meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while not await self._undisturbed(task):
                pass
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _undisturbed(self, task: asyncio.Future[T]) -> bool:
        """Wait for ``task``, or until a wake-up ends the wait; return whether it is done."""
        while True:
            woken = asyncio.ensure_future(self._woken.wait())
            try:
                either: set[asyncio.Future[Any]] = {task, woken}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                woken.cancel()
            if task.done():
                return True
            self._woken.clear()
            self._was_woken = True
            if self._look():
                return False
