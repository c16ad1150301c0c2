"""What Envoy's worker has in force, as opposed to what its main thread has acknowledged.

An ACK says that the main thread has taken a listener over and handed it to the worker, which comes
to it when it is done with what it is at. The worker does what it is given in order, so once it has
answered after that, it has the listener. By then it may not have accepted yet what had come before
that; by its next answer it has.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TIMES = 3
"""One to see that it has the listener, one that it has been round since; one for good measure."""

_PATIENCE_SECONDS = 1.0


class Worker:
    """The one worker thread of an Envoy.

    Args:
        path: The Unix socket on which it answers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def caught_up(self) -> None:
        """Wait until it has in force all that Envoy has acknowledged, and has been round since.

        One that can't be asked is not waited for longer than a second: it has just ended, and the
        next one begins with what is so then.
        """
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                for _ in range(_TIMES):
                    await self._ask()

    async def _ask(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            # An end without a word is an answer, too: one that has too much to do gives no other.
            await reader.read()
        finally:
            writer.close()
