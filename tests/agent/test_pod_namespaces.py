"""How pods' network namespaces are found and held, with a /proc of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.agent import netns
from troth.agent.pod_namespaces import Pins, network_namespaces
from troth.errors import PeerError
from troth.mesh.model import Pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

    from tests.conftest import InNode

UID = "11111111-2222-3333-4444-555555555555"
POD = Pod(uid=UID, namespace="shop", name="web", addresses=("10.7.0.2", "fd77::2"))
PODS = {UID: POD}


class Node:
    """Processes of pods, as a kubelet would have made them."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.directory = directory / "pins"
        self.changed = asyncio.Event()
        self.looked = asyncio.Event()
        self.may_tell = asyncio.Event()
        self.may_tell.set()
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for name in ("self", "1"):
            (self.proc / name / "ns").mkdir(parents=True)
            (self.proc / name / "ns" / "net").symlink_to("/proc/self/ns/net")

    def start_pod(self, addresses: tuple[str, ...] = POD.addresses) -> int:
        """Start a process of the pod, in a network namespace with these addresses."""
        process = subprocess.Popen(["unshare", "--net", "sleep", "60"])
        theirs = Path(f"/proc/{process.pid}")
        while (theirs / "comm").read_text() != "sleep\n":
            pass
        for address in addresses:
            add = ("ip", "addr", "add", address, "dev", "lo")
            subprocess.run([*netns.enter_command(theirs / "ns" / "net"), *add], check=True)
        entry = self.proc / str(process.pid)
        (entry / "ns").mkdir(parents=True)
        (entry / "cgroup").write_text(f"0::/kubepods/besteffort/pod{UID}/abc\n")
        (entry / "ns" / "net").symlink_to(theirs / "ns" / "net")
        self.processes[process.pid] = process
        return process.pid

    def end(self, pid: int) -> None:
        self.processes[pid].kill()
        self.processes[pid].wait()
        (self.proc / str(pid) / "cgroup").unlink()

    @contextlib.asynccontextmanager
    async def pins(self) -> AsyncIterator[Pins]:
        async def find(pods: Collection[Pod]) -> Mapping[str, Collection[Path]]:
            found = network_namespaces(pods, self.proc)
            self.looked.set()
            await self.may_tell.wait()
            return found

        pins = Pins(self.directory, finder=find, on_change=self.changed.set)
        pins.start()
        running = asyncio.create_task(pins.run())
        try:
            yield pins
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            pins.close()

    async def looks(self, more: int) -> None:
        """Wait until the pins have begun to look so often again."""
        for _ in range(more):
            self.looked.clear()
            async with asyncio.timeout(10):
                await self.looked.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what a change brings about."""
        async with asyncio.timeout(10):
            while not condition():
                await self.changed.wait()
                self.changed.clear()


async def a_sandbox_that_comes_late_is_found_and_held_beyond_its_processes(
    directory: Path,
) -> None:
    node = Node(directory)
    async with node.pins() as pins:
        pins.want({UID}, PODS)
        await node.looks(2)
        assert pins.missing == {UID}
        assert not pins.held
        pid = node.start_pod()
        inode = netns.inode(Path(f"/proc/{pid}/ns/net"))
        await node.until(lambda: bool(pins.held))
        node.end(pid)
        assert netns.inode(pins.held[UID]) == inode
        pins.want((), {})
        assert list(node.directory.iterdir()) == []


async def a_sandbox_made_anew_has_another_name(directory: Path) -> None:
    node = Node(directory)
    async with node.pins() as pins:
        first = node.start_pod()
        pins.want({UID}, PODS)
        await node.until(lambda: bool(pins.held))
        before = pins.held[UID]
        node.end(first)
        node.start_pod()
        pins.want({UID, "another-pod-that-makes-it-look"}, PODS)
        await node.until(lambda: pins.held[UID] != before)
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
        assert set(await pins.find([POD])) == {UID}
        assert not pins.held
        assert pins.hold(POD, node.proc / str(pid) / "ns" / "net") == pins.held[UID]
        node.end(pid)
        with pytest.raises(PeerError):
            pins.hold(
                msgspec.structs.replace(POD, uid="other"), node.proc / str(pid) / "ns" / "net"
            )


async def a_namespace_without_the_pods_addresses_is_passed_over(directory: Path) -> None:
    node = Node(directory)
    async with node.pins() as pins:
        for addresses in ((), POD.addresses[:1]):
            node.start_pod(addresses)
        wrong = node.start_pod(("10.7.0.3", "fd77::2"))
        with pytest.raises(PeerError):
            pins.hold(POD, node.proc / str(wrong) / "ns" / "net")
        pins.want({UID}, PODS)
        await node.until(lambda: bool(pins.problems))
        (problem,) = pins.problems.values()
        assert problem.endswith("has the addresses 10.7.0.2, fd77::2")
        assert pins.missing == {UID}
        assert list(node.directory.iterdir()) == []
        right = node.start_pod()
        await node.until(lambda: bool(pins.held))
        assert netns.inode(pins.held[UID]) == netns.inode(Path(f"/proc/{right}/ns/net"))
        assert not pins.problems


async def of_two_namespaces_with_the_pods_addresses_none_is_believed(directory: Path) -> None:
    node = Node(directory)
    async with node.pins() as pins:
        first, _ = node.start_pod(), node.start_pod()
        pins.want({UID}, PODS)
        await node.until(lambda: bool(pins.problems))
        assert pins.problems == {UID: "several network namespaces have its addresses"}
        assert not pins.held
        node.end(first)
        await node.until(lambda: bool(pins.held))
        assert set(pins.held) == {UID}


async def what_is_held_stays_when_another_one_claims_to_be_it(directory: Path) -> None:
    node = Node(directory)
    async with node.pins() as pins:
        node.start_pod()
        pins.want({UID}, PODS)
        await node.until(lambda: bool(pins.held))
        before = pins.held[UID]
        node.start_pod()
        again = msgspec.structs.replace(POD, uid="another-pod-that-makes-it-look")
        pins.want({UID, again.uid}, {**PODS, again.uid: again})
        await node.looks(2)
        assert pins.held == {UID: before}


async def what_is_held_meanwhile_stays_though_an_older_one_was_found(directory: Path) -> None:
    node = Node(directory)
    async with node.pins() as pins:
        node.start_pod()
        node.may_tell.clear()
        pins.want({UID}, PODS)
        await node.looks(1)
        newer = node.start_pod()
        held = pins.hold(POD, node.proc / str(newer) / "ns" / "net")
        again = msgspec.structs.replace(POD, uid="another-pod-that-makes-it-look")
        pins.want({UID, again.uid}, {**PODS, again.uid: again})
        node.may_tell.set()
        await node.looks(1)
        assert pins.held == {UID: held}


@pytest.mark.parametrize(
    "scene",
    [
        a_sandbox_that_comes_late_is_found_and_held_beyond_its_processes,
        a_sandbox_made_anew_has_another_name,
        what_an_earlier_agent_left_is_removed,
        nothing_is_held_that_nobody_wants,
        a_namespace_without_the_pods_addresses_is_passed_over,
        of_two_namespaces_with_the_pods_addresses_none_is_believed,
        what_is_held_stays_when_another_one_claims_to_be_it,
        what_is_held_meanwhile_stays_though_an_older_one_was_found,
    ],
    ids=lambda scene: scene.__name__.replace("_", " "),
)
def test_pins(
    scene: Callable[[Path], None],
    in_node_namespace: InNode,
    tmp_path: Path,
) -> None:
    in_node_namespace(scene, tmp_path)
