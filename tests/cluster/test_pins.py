"""How pods' network namespaces are found and held, with a /proc of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from troth.cluster._pins import Pins
from troth.errors import PeerError
from troth.node import netns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import InNode

UID = "11111111-2222-3333-4444-555555555555"


class Node:
    """Processes of pods, as a kubelet would have made them."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.directory = directory / "pins"
        self.changed = asyncio.Event()
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for name in ("self", "1"):
            (self.proc / name / "ns").mkdir(parents=True)
            (self.proc / name / "ns" / "net").symlink_to("/proc/self/ns/net")

    def start_pod(self, uid: str = UID) -> int:
        process = subprocess.Popen(["unshare", "--net", "sleep", "60"])
        theirs = Path(f"/proc/{process.pid}")
        while (theirs / "comm").read_text() != "sleep\n":
            pass
        entry = self.proc / str(process.pid)
        (entry / "ns").mkdir(parents=True)
        (entry / "cgroup").write_text(f"0::/kubepods/besteffort/pod{uid}/abc\n")
        (entry / "ns" / "net").symlink_to(theirs / "ns" / "net")
        self.processes[process.pid] = process
        return process.pid

    def end(self, pid: int) -> None:
        self.processes[pid].kill()
        self.processes[pid].wait()
        (self.proc / str(pid) / "cgroup").unlink()

    @contextlib.asynccontextmanager
    async def pins(self) -> AsyncIterator[Pins]:
        pins = Pins(self.directory, on_change=self.changed.set, proc=self.proc)
        pins.start()
        running = asyncio.create_task(pins.run())
        try:
            yield pins
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            pins.close()

    async def change(self) -> None:
        async with asyncio.timeout(10):
            await self.changed.wait()
        self.changed.clear()


async def a_sandbox_that_comes_late_is_found_and_held_beyond_its_processes(
    directory: Path,
) -> None:
    node = Node(directory)
    async with node.pins() as pins:
        pins.want({UID})
        await asyncio.sleep(0.1)
        assert pins.missing == {UID}
        assert not pins.held
        pid = node.start_pod()
        inode = netns.inode(Path(f"/proc/{pid}/ns/net"))
        await node.change()
        node.end(pid)
        assert netns.inode(pins.held[UID]) == inode
        pins.want(())
        assert list(node.directory.iterdir()) == []


async def a_sandbox_made_anew_has_another_name(directory: Path) -> None:
    node = Node(directory)
    async with node.pins() as pins:
        first = node.start_pod()
        pins.want({UID})
        await node.change()
        before = pins.held[UID]
        node.end(first)
        node.start_pod()
        pins.want({UID, "another-pod-that-makes-it-look"})
        await node.change()
        assert pins.held[UID] != before
        assert list(node.directory.iterdir()) == [pins.held[UID]]


async def what_an_earlier_agent_left_is_removed(directory: Path) -> None:
    node = Node(directory)
    node.directory.mkdir()
    netns.create(node.directory / "mounted")
    (node.directory / "stale").touch()
    async with node.pins():
        assert list(node.directory.iterdir()) == []


async def nothing_is_held_that_nobody_wants(directory: Path) -> None:
    node = Node(directory)
    pid = node.start_pod()
    async with node.pins() as pins:
        assert set(await pins.find({UID})) == {UID}
        assert not pins.held
        assert pins.hold(UID, node.proc / str(pid) / "ns" / "net") == pins.held[UID]
        node.end(pid)
        with pytest.raises(PeerError):
            pins.hold("other", node.proc / str(pid) / "ns" / "net")


@pytest.mark.parametrize(
    "scene",
    [
        a_sandbox_that_comes_late_is_found_and_held_beyond_its_processes,
        a_sandbox_made_anew_has_another_name,
        what_an_earlier_agent_left_is_removed,
        nothing_is_held_that_nobody_wants,
    ],
    ids=lambda scene: scene.__name__.replace("_", " "),
)
def test_pins(
    scene: Callable[[Path], None],
    in_node_namespace: InNode,
    tmp_path: Path,
) -> None:
    in_node_namespace(scene, tmp_path)
