"""The FIFO through which Envoy's access log reaches the agent, cut into lines of bounded length.

A FIFO because Envoy's file logger is in every build, needs no server of ours and leaves nothing on
a disk. The agent keeps it open for reading *and* writing: so Envoy's open never blocks without a
reader, and Envoy's restart doesn't cause an end of file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Self

import structlog

from troth.envoy.accesslog import parse
from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from troth.traffic.connection import ConnectionReport


class LineBuffer:
    """Splits a stream at newlines and never holds more than one line of ``limit`` bytes.

    Attributes:
        dropped: How many longer lines were left out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._skipping = False
        self.dropped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Add received data; returns the lines it completes, without their newlines."""
        *complete, rest = data.split(b"\n")
        lines = [line for piece in complete if (line := self._end(piece)) is not None]
        self._append(rest)
        return lines

    def _end(self, piece: bytes) -> bytes | None:
        self._append(piece)
        line, skipped = bytes(self._partial), self._skipping
        self._partial.clear()
        self._skipping = False
        return None if skipped else line

    def _append(self, piece: bytes) -> None:
        if self._skipping:
            return
        if len(self._partial) + len(piece) > self._limit:
            self._partial.clear()
            self._skipping = True
            self.dropped += 1
        else:
            self._partial += piece


_CHUNK = 64 * 1024
_MAX_LINE = 32 * 1024
_PIPE_SIZE = 1024 * 1024  # the most without privileges; some 1500 lines

_log = structlog.get_logger("troth.envoy")


class AccessLogPipe:
    """Creates the FIFO and yields the reports that come through it; a context manager.

    Enter it before Envoy starts. Lines that aren't troth's are counted, and logged once.

    Attributes:
        path: Where it is; its directory must be private to the agent.
        garbage: How many lines could not be parsed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.garbage = 0
        self._lines = LineBuffer(_MAX_LINE)
        self._fd: int | None = None

    @property
    def oversize(self) -> int:
        """How many lines were longer than any of troth's can be."""
        return self._lines.dropped

    def __enter__(self) -> Self:
        """Make and open the FIFO, mode 0600.

        Raises:
            EnvironmentLackError: The path exists and isn't a FIFO.
        """
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISFIFO(self.path.lstat().st_mode):
                raise EnvironmentLackError(
                    f"{self.path} exists and is not a FIFO",
                    "remove it; the directory is troth's own",
                )
            self.path.unlink()
        os.mkfifo(self.path, 0o600)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with contextlib.suppress(PermissionError):  # over the user's pipe quota: 64 KiB will do
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self.path.unlink(missing_ok=True)

    async def reports(self) -> AsyncIterator[ConnectionReport]:
        """Yield reports as they come; ends only when cancelled. One reader at a time."""
        if self._fd is None:
            raise RuntimeError("the access log's FIFO isn't open")
        while True:
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                await _readable(self._fd)
                continue
            for line in self._lines.feed(data):
                report = self._parse(line)
                if report is not None:
                    yield report
            await asyncio.sleep(0)  # in a burst, let the loop's other tasks run, too

    def _parse(self, line: bytes) -> ConnectionReport | None:
        try:
            return parse(line)
        except ValueError as error:
            self.garbage += 1
            if self.garbage == 1:
                _log.warning("unreadable access log line", line=line[:200], error=str(error))
            return None


async def _readable(fd: int) -> None:
    """Wait until ``fd`` has something to read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
