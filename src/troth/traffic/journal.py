"""Connection events on disk, so that they outlive the agent: bounded, and never blocking it.

The directory holds segments, ``connections-NUMBER.jsonl``, 0600, of one JSON value a line. The
first line is a checkpoint: the `Tally` of everything before. The others are the `Connection`
events since. So the newest segment alone restores all counts, and all segments together restore the
last events.

Events are written in batches twice a second, by a thread, so a killed agent loses the last half
second. If the disk is full or gone, only events are lost, with one line in the log.

Only one agent may have the directory open at a time: it closes the journal before a handover.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections import deque
from typing import TYPE_CHECKING, Literal, Self

import msgspec
import structlog

from troth.traffic.connection import Connection
from troth.traffic.tally import Tally, TallyState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

_log = structlog.get_logger(__name__)

_FLUSH_SECONDS = 0.5
_SEGMENT_BYTES = 8 * 1024 * 1024
_MOST_SEGMENTS = 8
_MOST_PENDING = 20_000
_NAME = re.compile(r"connections-(?P<number>[0-9]{8})\.jsonl")


class _Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a segment."""

    schema: Literal["troth/journal/v1"] = "troth/journal/v1"
    tally: TallyState


class Journal:
    """Records connections: counts in memory and, while it is open, whole events on disk.

    Args:
        directory: Where the segments go; created if missing. Its parent must be private to troth.
        now: When the counts begin, if none are restored.
        segment_bytes: The maximum size of a segment. All segments together are at most twice as
            large, not counting their checkpoints.
        kept: The maximum number of events in `restored`.

    Attributes:
        tally: The counts, including restored ones.
        restored: The newest events that were on disk when it was opened, oldest first.
        lost: How many events could not be written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        now: datetime,
        segment_bytes: int = _SEGMENT_BYTES,
        kept: int = 10_000,
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._file: int | None = None
        self._written = 0
        self._number = 0
        self._is_open = False
        self._failing = False
        self._pending: list[bytes] = []
        self._writing = threading.Lock()
        self.lost = 0
        self.restored: deque[Connection] = deque(maxlen=kept)
        self.tally = Tally(now)

    def open(self) -> Self:
        """Restore from disk, and write there from now on."""
        self.restored.clear()
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._restore()
        except OSError as error:
            _log.warning("earlier connection events can't be read", reason=str(error))
        self._write([], self._checkpoint())
        self._is_open = True
        return self

    def close(self) -> None:
        """Write pending events, and then nothing more."""
        self._is_open = False
        self._write(*self._take())
        self._give_up_segment()

    def add(self, connection: Connection) -> None:
        """Count a connection, and write it soon."""
        self.tally.add(connection)
        if not self._is_open:
            return
        if len(self._pending) < _MOST_PENDING:
            self._pending.append(msgspec.json.encode(connection) + b"\n")
        else:
            self.lost += 1

    async def run(self) -> None:
        """Write added events until cancelled; then close the journal."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_SECONDS)
                if self._pending:
                    await asyncio.to_thread(self._write, *self._take())
        finally:
            self.close()

    def _take(self) -> tuple[list[bytes], bytes]:
        """The lines to write now, and the next segment's checkpoint if one is due."""
        lines, self._pending = self._pending, []
        due = self._is_open and (self._file is None or self._written >= self._segment_bytes)
        return lines, self._checkpoint() if due else b""

    def _checkpoint(self) -> bytes:
        return msgspec.json.encode(_Checkpoint(tally=self.tally.state())) + b"\n"

    def _write(self, lines: list[bytes], checkpoint: bytes) -> None:
        # The checkpoint counts the lines, so they belong before it.
        with self._writing:
            try:
                self._append(lines)
                if checkpoint:
                    self._begin_segment(checkpoint)
            except OSError as error:
                self._give_up_segment()
                if not self._failing:
                    _log.warning("connection events are not kept on disk", reason=str(error))
                self._failing = True
            else:
                self._failing = False

    def _append(self, lines: list[bytes]) -> None:
        written = False
        try:
            if self._file is not None:
                data = b"".join(lines)
                self._written += len(data)
                _write_all(self._file, data)
                written = True
        finally:
            self.lost += 0 if written else len(lines)

    def _begin_segment(self, checkpoint: bytes) -> None:
        self._make_room()
        self._number += 1
        path = self._path(self._number)
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(unfinished, flags, 0o600)
        try:
            _write_all(file, checkpoint)
            unfinished.rename(path)
        except OSError:
            os.close(file)
            unfinished.unlink(missing_ok=True)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._written = file, 0

    def _give_up_segment(self) -> None:
        """Stop writing to it: its last line may be incomplete, or another agent has it now."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _make_room(self) -> None:
        """Remove the oldest segments, but never the newest: its checkpoint is the last one."""
        total = 0
        for age, number in enumerate(sorted(self._numbers(), reverse=True)):
            path = self._path(number)
            total += path.stat().st_size
            if age and (total > self._segment_bytes or age >= _MOST_SEGMENTS - 1):
                path.unlink()

    def _restore(self) -> None:
        tally = None
        for number in sorted(self._numbers()):
            self._number = number
            checkpoint, events = self._read(self._path(number))
            if checkpoint is not None:
                tally = Tally.restored(checkpoint.tally)
            for event in events:
                self.restored.append(event)
                if tally is not None:
                    tally.add(event)
        if tally is not None:
            self.tally = tally

    def _read(self, path: Path) -> tuple[_Checkpoint | None, Iterable[Connection]]:
        with path.open("rb") as file:
            first, *others = file.read().split(b"\n")
        checkpoint = None
        with contextlib.suppress(msgspec.MsgspecError):
            checkpoint = msgspec.json.decode(first, type=_Checkpoint)
        return checkpoint, _readable(others)

    def _numbers(self) -> list[int]:
        names = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return [int(name["number"]) for name in names if name]

    def _path(self, number: int) -> Path:
        return self._directory / f"connections-{number:08d}.jsonl"


def _readable(lines: Iterable[bytes]) -> Iterable[Connection]:
    decoder = msgspec.json.Decoder(Connection)
    for line in lines:
        # The last one may have been cut off, or be another version's.
        with contextlib.suppress(msgspec.MsgspecError):
            yield decoder.decode(line)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
