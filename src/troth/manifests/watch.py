"""Follows manifests on disk, keeping the last good version of each object.

The files' state is compared whenever the operating system reports a change below the paths, and
also once a second, because notifications get lost (a full inotify queue, a network file system, a
replaced directory). Files are read once their state has settled, so that none is read half-written.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from watchfiles import awatch

from troth.manifests.amend import merge_last_good
from troth.manifests.files import STDIN, ManifestFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from troth.manifests.collect import Manifests

_SETTLE_SECONDS = 0.02
_SETTLE_ROUNDS = 20  # then a file that keeps changing is read anyway
_POLL_SECONDS = 1.0
_GROUP_MILLISECONDS = 4


async def watch(
    paths: Sequence[Path], stdin: bytes | None = None
) -> AsyncGenerator[Manifests, None]:
    """Follow manifests on disk.

    Args:
        paths: As for ``load``; a path that doesn't exist yet is read when it appears.
        stdin: What ``-`` stands for; it is read once.

    Yields:
        The set in force: at once, and then whenever it or the problems change. An object whose new
        version is refused keeps its old version.
    """
    files = ManifestFiles(paths, stdin)
    alarm = _Alarm(paths)
    in_force: Manifests | None = None
    seen: tuple[object, ...] | None = None
    try:
        while True:
            await alarm.arm()
            state = await asyncio.to_thread(files.signature)
            if state != seen:
                seen = state if in_force is None else await _settled(files, state)
                read = await asyncio.to_thread(files.load)
                merged = read if in_force is None else merge_last_good(in_force, read)
                if merged != in_force:
                    in_force = merged
                    yield merged
            await alarm.rings(_POLL_SECONDS)
    finally:
        await alarm.disarm()


async def _settled(files: ManifestFiles, state: tuple[object, ...]) -> tuple[object, ...]:
    """The files' state once it has been stable for a moment; for longer if one was emptied.

    An emptied file is usually about to be written. Reading it too early would drop its policies.
    """
    for _ in range(_SETTLE_ROUNDS):
        await asyncio.sleep(_SETTLE_SECONDS)
        later = await asyncio.to_thread(files.signature)
        if later == state and not await asyncio.to_thread(files.emptied):
            break
        state = later
    return state


class _Alarm:
    """Rings when something changes in the directories of the paths."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = [path for path in paths if path != STDIN]
        self._rung = asyncio.Event()
        self._watched: frozenset[tuple[str, bool, int, int]] = frozenset()
        self._tasks: list[asyncio.Task[None]] = []

    async def arm(self) -> None:
        """Watch the current directories; does nothing if they are watched already."""
        wanted = await asyncio.to_thread(self._directories)
        if wanted == self._watched:
            return
        await self.disarm()
        self._watched = wanted
        for whole in (True, False):
            if directories := sorted(path for path, deep, _, _ in wanted if deep is whole):
                self._tasks.append(asyncio.create_task(self._listen(directories, whole=whole)))

    async def disarm(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def rings(self, seconds: float) -> None:
        """Return at the next change, or after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return
        self._rung.clear()

    def _directories(self) -> frozenset[tuple[str, bool, int, int]]:
        """What to watch: path, whether recursively, and the directory's device and inode."""
        found = set()
        for path in self._paths:
            whole = path.is_dir()
            # Watch a file's directory, because editors replace files.
            directory = path if whole else path.parent
            try:
                status = directory.stat()
            except OSError:  # retried once a second
                continue
            found.add((str(directory), whole, status.st_dev, status.st_ino))
        return frozenset(found)

    async def _listen(self, directories: list[str], *, whole: bool) -> None:
        try:
            async for _ in awatch(
                *directories,
                watch_filter=None,
                recursive=whole,
                debounce=_GROUP_MILLISECONDS,
                step=_GROUP_MILLISECONDS // 2,
            ):
                self._rung.set()
        except (OSError, RuntimeError):
            # If a watch fails (limits, file system, gone meanwhile), polling once a second remains.
            self._rung.set()
