"""How long a pod may take to end, which may be cut short while it passes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_LEAST_SECONDS = 2.0
"""What is left for the end proper after a ``preStop`` that took all; as the kubelet has it."""


class Patience:
    """The time that begins when a pod is to end (``terminationGracePeriodSeconds``).

    Args:
        seconds: How long it is; 0 or more.

    Attributes:
        is_cut: It has become shorter than it was.
    """

    def __init__(self, seconds: float) -> None:
        self._until = _now() + seconds
        self._least = min(seconds, _LEAST_SECONDS)
        self._limits: set[asyncio.Timeout] = set()
        self.is_cut = False

    @property
    def left(self) -> float:
        """Seconds that are left; 0 when it is over."""
        return max(self._until - _now(), 0.0)

    def cut(self, seconds: float) -> None:
        """Have it end ``seconds`` from now, if that is sooner."""
        until = _now() + seconds
        self.is_cut = self.is_cut or until < self._until
        self._until = min(self._until, until)
        self._least = min(self._least, seconds)
        for limit in self._limits:
            when = limit.when()
            if when is not None and when > until:
                limit.reschedule(until)

    def before_signal(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Limits what comes before SIGTERM: TimeoutError when the time is over."""
        return self._limited(self._until)

    def before_kill(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Limits what comes after SIGTERM: TimeoutError when it is time for SIGKILL."""
        return self._limited(max(self._until, _now() + self._least))

    @contextlib.asynccontextmanager
    async def _limited(self, until: float) -> AsyncIterator[None]:
        async with asyncio.timeout_at(until) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)


def _now() -> float:
    return asyncio.get_running_loop().time()
