"""What an earlier agent captured is found in pods that leave the mesh before this one had them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from troth.agent import netns
from troth.agent.capture import capture, is_captured, release
from troth.agent.capturer import Capturer
from troth.agent.cluster.leftovers import Leftovers
from troth.agent.pod_namespaces import Pins
from troth.agent.pods import Pods
from troth.mesh.model import Pod
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Mapping
    from pathlib import Path

    from tests.conftest import InNode

POD = Pod(uid="a", namespace="shop", name="web", addresses=("127.0.0.1", "::1"))
OTHERS = {"a": POD}
A, NONE = frozenset({"a"}), frozenset[str]()


class Agent:
    """What `Leftovers` uses of an agent: its pods, and what is done to them."""

    def __init__(self) -> None:
        self.pods = Pods(grace=0.0)
        self.adopted = asyncio.Event()

    @property
    def using(self) -> frozenset[str]:
        return frozenset(self.pods.netns)

    def adopt(self, uid: str, place: Path) -> None:
        self.pods.adopt(uid, place)
        self.adopted.set()


class Node:
    """A node with one pod, whose network namespace isn't always found."""

    def __init__(self, directory: Path) -> None:
        self.pod = directory / "pod"
        netns.create(self.pod)
        self.is_there = True
        self.looked = asyncio.Event()
        self.agent = Agent()
        self.pins = Pins(directory / "pins", finder=self.find, on_change=lambda: None)
        self.pins.start()
        self.leftovers = Leftovers(self.agent, self.pins)  # type: ignore[arg-type]  # all it uses

    async def find(self, pods: Collection[Pod]) -> Mapping[str, Collection[Path]]:
        self.looked.set()
        return {pod.uid: (self.pod,) for pod in pods if self.is_there}


@contextlib.asynccontextmanager
async def node_of(directory: Path) -> AsyncIterator[Node]:
    node = Node(directory)
    running = asyncio.create_task(node.leftovers.run())
    try:
        yield node
    finally:
        running.cancel()
        node.pins.close()


async def a_pod_that_leaves_the_mesh_while_it_is_sought_is_released(directory: Path) -> None:
    async with node_of(directory) as node:
        await capture(node.pod)
        node.is_there = False
        node.leftovers.see(A, {})
        node.leftovers.see(NONE, OTHERS)
        await node.looked.wait()
        node.is_there = True
        await node.agent.adopted.wait()
        capturer = Capturer(node.agent.pods)
        capturer.see({}, OTHERS)
        with listening(node.pod):
            await capturer.act(A, {})
        assert not await is_captured(node.pod)


@contextlib.contextmanager
def listening(pod: Path) -> Iterator[None]:
    """Somebody who listens where an Envoy would."""
    with contextlib.ExitStack() as ends:
        for port in PORT_SETS[0]:
            server = ends.enter_context(netns.socket_in(pod, socket.AF_INET))
            server.bind(("127.0.0.1", port))
            server.listen()
        yield


async def a_pod_that_nobody_captured_is_left_alone(directory: Path) -> None:
    async with node_of(directory) as node:
        await capture(node.pod)
        await release(node.pod)
        await node.leftovers.look(OTHERS)
        assert node.looked.is_set()
        assert node.agent.using == NONE


async def what_the_agent_has_itself_is_no_leftover_before_it_lets_go(directory: Path) -> None:
    async with node_of(directory) as node:
        node.agent.pods.see({"a": node.pod}, OTHERS, 0.0)
        node.leftovers.see(A, {})
        node.leftovers.see(NONE, OTHERS)
        assert not node.leftovers._woken.is_set()
        # It forgets one that it had not captured: perhaps because an earlier agent had.
        node.agent.pods.see({}, OTHERS, 0.0)
        node.leftovers.see(NONE, OTHERS)
        await node.looked.wait()


@pytest.mark.parametrize(
    "scene",
    [
        a_pod_that_leaves_the_mesh_while_it_is_sought_is_released,
        a_pod_that_nobody_captured_is_left_alone,
        what_the_agent_has_itself_is_no_leftover_before_it_lets_go,
    ],
    ids=lambda scene: scene.__name__,
)
def test_leftovers(in_node_namespace: InNode, tmp_path: Path, scene: object) -> None:
    in_node_namespace(scene, tmp_path)  # type: ignore[arg-type]  # pytest knows no types
