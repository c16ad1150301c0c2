"""The CNI plugin's home in the agent: it is put on the node, told what it needs, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth.agent.cluster.announcements import Announcements
from troth.agent.cluster.cni import CniVerdict, PluginSocket
from troth.agent.cluster.cni_files import CniFiles
from troth.agent.cluster.mesh_file import MeshFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from troth.agent.cluster.announcements import Waiting
    from troth.agent.cluster.cni import CniQuestion
    from troth.agent.cluster.handover import Charge
    from troth.agent.cluster.removal import Removal
    from troth.agent.cluster.settings import CniFolders
    from troth.agent.pod_namespaces import Pins
    from troth.mesh.world import World

_log = structlog.get_logger(__name__)

_SOCKET = "cni.sock"
_FLAG = "--cni"
_SERVED_SECONDS = 5.0
_LOOK_SECONDS = 0.1


class CniPlugin:
    """What an agent does for the plugin, while it is in charge of its node.

    Args:
        folders: Where the plugin is.
        removal: Of troth.
        run_dir: The agents', for the socket.
        namespace: The agents'; its pods are never held up.
        on_change: Called when there is something to look at.
    """

    def __init__(
        self,
        folders: CniFolders,
        removal: Removal,
        *,
        run_dir: Path,
        namespace: str,
        on_change: Callable[[], None],
    ) -> None:
        exempt = tuple(dict.fromkeys((namespace, *folders.exempt)))
        self._socket = run_dir / _SOCKET
        self._announcements = Announcements(on_change=on_change)
        self._server = PluginSocket(self._socket, self._answer)
        self._written = asyncio.Event()
        self._file = MeshFile(folders.state, on_change=self._note_file)
        self._files = CniFiles(
            msgspec.structs.replace(folders, exempt=exempt),
            socket=self._socket,
            on_change=on_change,
        )
        self._removal = removal
        self._on_change = on_change
        self._judge: Callable[[str, int], CniVerdict | Waiting] | None = None

    @property
    def is_installed(self) -> bool | None:
        """As of `CniFiles`."""
        return self._files.is_installed

    @property
    def trouble(self) -> str:
        """Why pods start before they are captured; empty while they don't."""
        return self._file.trouble or self._files.trouble

    def over(self, world: World) -> World:
        """As `Announcements.over`."""
        return self._announcements.over(world)

    def hold(self, pins: Pins, world: World, wanted: frozenset[str]) -> None:
        """As `Announcements.hold`."""
        self._announcements.hold(pins, world, wanted)

    def announced(self, held: Mapping[str, Path]) -> Mapping[str, Path]:
        """As of `Announcements.awaited`."""
        return self._announcements.awaited(held)

    def look(self, judge: Callable[[str, int], CniVerdict | Waiting]) -> None:
        """As `Announcements.look`; the plugin's later questions are judged by it, too."""
        self._judge = judge
        self._announcements.look(judge)

    def tell(self, world: World, opted_out: Collection[str]) -> None:
        """As `MeshFile.tell`."""
        self._file.tell(world, opted_out)

    async def run(self, charge: Charge) -> None:
        """Work while in charge, until cancelled; the plugin stays where it is."""
        while True:
            await charge.mine.wait()
            async with asyncio.TaskGroup() as acting:
                works = [
                    acting.create_task(each)
                    for each in (self._server.serve(), self._file.run(), self._install())
                ]
                await charge.others.wait()
                for work in works:
                    work.cancel()

    async def taken_away(self, charge: Charge) -> None:
        """Take the plugin away at the agent's end, if nobody is to come who serves it."""
        if charge.others.is_set():
            # The other agent doesn't want it: one that does may be too busy to serve it yet.
            ends = not (self._removal.asks_for(_FLAG) or await self._is_served())
        else:
            ends = await self._removal.ask()
        if ends:
            await self._remove()

    async def _is_served(self) -> bool:
        """Whether another agent answers, which may have taken over a moment ago."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SERVED_SECONDS):
                while not self._socket.exists():  # noqa: ASYNC110 - files tell nobody
                    await asyncio.sleep(_LOOK_SECONDS)
        return self._socket.exists()

    def close(self) -> None:
        """Let go of all."""
        self._announcements.close()

    async def _install(self) -> None:
        while True:
            await self._written.wait()  # without it the plugin would hold up all pods
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self._files.run())
                await self._removal.begun.wait()
                keeping.cancel()
            await self._remove()
            await self._removal.averted.wait()
            self._written.clear()
            self._file.write_again()

    async def _remove(self) -> None:
        try:
            await asyncio.to_thread(self._files.remove)
        except OSError as error:
            _log.error("the CNI plugin can't be taken away", reason=str(error))

    def _note_file(self) -> None:
        if self._file.is_written:
            self._written.set()
        self._on_change()

    async def _answer(self, question: CniQuestion, namespace: int | None) -> CniVerdict:
        if namespace is None:
            self._announcements.forget(question)
            return CniVerdict("noted")
        if question.command == "ADD":
            return await self._announce(question, namespace)
        if self._judge is None:
            return CniVerdict("unknown", "the agent has not looked yet")
        verdict = self._judge(question.pod.uid, os.fstat(namespace).st_ino)
        return verdict if isinstance(verdict, CniVerdict) else verdict.verdict

    async def _announce(self, question: CniQuestion, namespace: int) -> CniVerdict:
        clock = asyncio.get_running_loop().time
        begun = clock()
        verdict = await self._announcements.announce(question, namespace)
        if verdict.verdict != "out":
            _log.info(
                "a pod has waited for its capture",
                pod=str(question.pod),
                verdict=verdict.verdict,
                reason=verdict.why,
                seconds=round(clock() - begun, 3),
            )
        return verdict
