"""Bytes that arrive in pieces, put together into lines of bounded length."""

from __future__ import annotations


class LineBuffer:
    """Splits a stream at newlines and never holds more than one line of ``limit`` bytes.

    Attributes:
        dropped: How many lines were longer than that and so were left out, whole.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._skipping = False
        self.dropped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; returns the lines it completes, without their newlines."""
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
