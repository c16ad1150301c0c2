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

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = structlog.get_logger(__name__)

_TIMES = 3
"""One to see that it has the listener, one that it has been round since; one for good measure."""

_LOOK_SECONDS = 1.0
"""How often it is seen, while no answer comes, whether the Envoy that was asked is still there."""

_RETRY_SECONDS = 0.02


class Worker:
    """The one worker thread of an Envoy.

    Args:
        path: The Unix socket on which it answers.
        process: The ID of the Envoy that runs now; None between two.
    """

    def __init__(self, path: Path, process: Callable[[], int | None]) -> None:
        self._path = path
        self._process = process

    async def caught_up(self) -> None:
        """Wait until it has in force all that Envoy has acknowledged, and has been round since.

        Or until that Envoy has ended: what it had in force has ended with it, and the next one
        begins with what is so then. There is no other way out: a step that follows from this one
        isn't taken because somebody got tired of waiting.
        """
        process, answers = self._process(), 0
        while answers < _TIMES and process is not None and self._process() == process:
            if await self._answers(process):
                answers += 1
            else:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _answers(self, process: int) -> bool:
        """Ask it once; whether it has answered before that Envoy ended."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except OSError:  # it doesn't listen yet, or has too many waiting
            return False
        # An end without a word is an answer, too: one that has too much to do gives no other.
        answer = asyncio.ensure_future(reader.read())
        late = False
        try:
            while self._process() == process:
                done, _ = await asyncio.wait({answer}, timeout=_LOOK_SECONDS)
                if done:
                    return answer.exception() is None
                if not late:
                    _log.warning("Envoy's worker is slow to answer", seconds=_LOOK_SECONDS)
                late = True
            return False
        finally:
            answer.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await answer
            writer.close()
