"""What the mesh is, on the node's disk: for the CNI plugin, when no agent is there to be asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from troth.mesh.model import Namespace
    from troth.mesh.world import World

_log = structlog.get_logger(__name__)

_VERSION = 1
_RETRY_SECONDS = 5.0


class MeshState(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content; ``cni/state.go`` reads it.

    Attributes:
        namespaces: All that there are, and whether their pods are in the mesh.
        out: UIDs of the node's own pods that are out of it though their namespace is in it.
    """

    version: int = _VERSION
    namespaces: Mapping[str, bool] = {}
    out: tuple[str, ...] = ()


class MeshFile:
    """Keeps the file up to date.

    Args:
        path: The file.
        on_change: Called when it has been written, or couldn't be.

    Attributes:
        is_written: Whether what is there is this agent's.
        trouble: Why it could not be written; empty when all is well.
    """

    def __init__(self, path: Path, *, on_change: Callable[[], None]) -> None:
        self.is_written = False
        self.trouble = ""
        self._path = path
        self._on_change = on_change
        self._told: tuple[Mapping[str, Namespace], Collection[str]] | None = None
        self._woken = asyncio.Event()

    def tell(self, world: World, opted_out: Collection[str]) -> None:
        """Have it say what is so in a world.

        Args:
            world: What there is.
            opted_out: As of `MeshState.out`.
        """
        if self._told != (world.namespaces, opted_out):
            self._told = (world.namespaces, opted_out)
            self._woken.set()

    def write_again(self) -> None:
        """Have it written though nothing has changed: it was removed."""
        self.is_written = False
        self._woken.set()

    async def run(self) -> None:
        """Write it until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._told is None:
                continue
            namespaces, opted_out = self._told
            state = MeshState(
                namespaces={name: each.in_mesh for name, each in sorted(namespaces.items())},
                out=tuple(sorted(opted_out)),
            )
            try:
                await asyncio.to_thread(write_file, self._path, msgspec.json.encode(state), 0o600)
            except OSError as error:
                self._note(f"{self._path} can't be written: {error.strerror}")
                await asyncio.sleep(_RETRY_SECONDS)
                self._woken.set()
                continue
            self.is_written = True
            self._note("")

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _log.error("the CNI plugin is not told what the mesh is", reason=trouble)
        self.trouble = trouble
        self._on_change()


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Put a file in the place of what is there, whole or not at all, and to stay.

    Raises:
        OSError: It can't be written.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}")  # nobody takes it for a configuration
    made.unlink(missing_ok=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(made, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        made.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        made.unlink(missing_ok=True)
