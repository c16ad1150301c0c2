"""Room for two agents on a node, because there are two of them while one replaces the other.

A slot is a directory, which an agent holds by a lock for as long as it lives, and a set of ports
for its Envoy. Agents of different versions meet here, so the layout is to stay::

    RUN_DIR/agents/0/lock        held (flock) while an agent lives
    RUN_DIR/agents/0/handover    see `troth.agent.cluster.handover`
    RUN_DIR/agents/1/...
    RUN_DIR/events/              the journal, of whichever agent acts
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.mesh.ports import PORT_SETS, PortSet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_LOOK_SECONDS = 0.2


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's place on its node.

    Attributes:
        directory: For sockets and files of its own.
        ports: Where its Envoy listens in every pod.
    """

    directory: Path
    ports: PortSet

    @property
    def handover(self) -> Path:
        """The socket by which the agent here hands its node over."""
        return self.directory / "handover"

    @property
    def is_taken(self) -> bool:
        """Whether there is an agent here that lives."""
        file = self._locked()
        if file is None:
            return True
        os.close(file)
        return False

    def _locked(self) -> int | None:
        """The lock's file, locked until it is closed; None when somebody else has it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self.directory / "lock", flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return file


class Place(msgspec.Struct, frozen=True):
    """Where an agent is, and where there may be another one."""

    own: Slot
    other: Slot


@contextlib.asynccontextmanager
async def take_place(run_dir: Path) -> AsyncIterator[Place]:
    """Hold a slot while the block runs, as soon as one is free."""
    first, second = (
        Slot(directory=run_dir / "agents" / str(number), ports=ports)
        for number, ports in enumerate(PORT_SETS)
    )
    while True:
        for place in (Place(first, second), Place(second, first)):
            file = place.own._locked()  # noqa: SLF001 - of this very module
            if file is not None:
                try:
                    yield place
                finally:
                    os.close(file)
                return
        await asyncio.sleep(_LOOK_SECONDS)
