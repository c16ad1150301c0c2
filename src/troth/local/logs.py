"""What containers print, in files of bounded size."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOG_LIMIT = 8 * 2**20
"""Bytes after which a log is moved aside to ``NAME.log.1``, which replaces the one before it."""

_CHUNK = 65536
_MOST_LEFT = 2**20  # bytes; what a pipe holds at most, unless root has raised it


class ContainerLog:
    """Appends the output of a container's processes, one after the other, to a file.

    Args:
        path: The file, 0600 from the moment it exists; the directory must be there.
        limit: Bytes after which the file is moved aside.
    """

    def __init__(self, path: Path, *, limit: int = LOG_LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._file = -1
        self._size = 0
        self._pipes: set[int] = set()

    def open_pipe(self) -> int:
        """The end of a new pipe to this log for a process to write to; close it after the start.

        The log goes on reading until every process that has it is gone, or `close` is called.
        """
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._pipes.add(reader)
        asyncio.get_running_loop().add_reader(reader, self._drain, reader)
        return writer

    def write(self, data: bytes) -> None:
        """Appends ``data``; what a full disk does not take is lost, and the container goes on."""
        with contextlib.suppress(OSError):
            if self._file == -1 or self._size + len(data) > self._limit:
                self._next_file()
            self._size += os.write(self._file, data)

    def close(self) -> None:
        """Takes what is still in the pipes and closes everything."""
        for reader in tuple(self._pipes):
            for _ in range(_MOST_LEFT // _CHUNK):  # a pipe that is still written to has no end
                if not self._drain(reader):
                    break
            self._close_pipe(reader)
        if self._file != -1:
            os.close(self._file)
            self._file = -1

    def _drain(self, reader: int) -> bool:
        """Reads once; whether there may be more."""
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.write(data)
        else:
            self._close_pipe(reader)
        return bool(data)

    def _close_pipe(self, reader: int) -> None:
        if reader in self._pipes:
            self._pipes.discard(reader)
            asyncio.get_running_loop().remove_reader(reader)
            os.close(reader)

    def _next_file(self) -> None:
        if self._file != -1:
            os.close(self._file)
            self._file = -1
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size
