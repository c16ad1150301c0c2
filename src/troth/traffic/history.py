"""The most recent items, to query and to follow; bounded in every direction."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

T = TypeVar("T")


class History(Generic[T]):
    """Keeps the newest items and passes each new one to all followers.

    Args:
        kept: How many items to keep. A follower that lags further behind loses the oldest.
    """

    def __init__(self, kept: int = 10_000) -> None:
        self._kept: deque[T] = deque(maxlen=kept)
        self._followers: set[asyncio.Queue[T]] = set()

    def add(self, item: T) -> None:
        """Add ``item`` and notify the followers."""
        self._kept.append(item)
        for queue in self._followers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(item)

    def replace(self, items: Iterable[T]) -> None:
        """Replace all items without notifying followers."""
        self._kept.clear()
        self._kept.extend(items)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._kept))

    @contextlib.contextmanager
    def following(self) -> Iterator[AsyncIterator[T]]:
        """Items from now on, without end."""
        queue: asyncio.Queue[T] = asyncio.Queue(self._kept.maxlen or 0)
        self._followers.add(queue)

        async def items() -> AsyncIterator[T]:
            while True:
                yield await queue.get()

        try:
            yield items()
        finally:
            self._followers.discard(queue)
