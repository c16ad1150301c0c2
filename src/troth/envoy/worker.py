"""What Envoy's worker has in force, as opposed to what its main thread has acknowledged.

An ACK says that the main thread has accepted a listener and queued it for the worker. The worker
processes its queue in order, so if it answers after that, it has the listener. It may not yet have
accepted the connections that were waiting before; by its next answer it has.
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
"""One shows that it has the listener, one that it has run its loop since; one is a reserve."""

_LOOK_SECONDS = 1.0
"""Seconds between checks, while waiting for an answer, whether that Envoy still runs."""

_RETRY_SECONDS = 0.02


class Worker:
    """The one worker thread of an Envoy.

    Args:
        path: The Unix socket on which it answers.
        process: The process ID of the running Envoy; None between two.
    """

    def __init__(self, path: Path, process: Callable[[], int | None]) -> None:
        self._path = path
        self._process = process

    async def caught_up(self) -> None:
        """Wait until all that Envoy has acknowledged is in force, and its loop has run since.

        Or until that Envoy has ended: its configuration has ended with it, and the next one starts
        with the current one. There is no timeout: the next step is only safe after this.
        """
        process, answers = self._process(), 0
        while answers < _TIMES and process is not None and self._process() == process:
            if await self._answers(process):
                answers += 1
            else:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _answers(self, process: int) -> bool:
        """Ask once; return whether it answered before that Envoy ended."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
        except OSError:  # it doesn't listen yet, or its backlog is full
            return False
        # A close without data is an answer, too: it is all that an overloaded one gives.
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
