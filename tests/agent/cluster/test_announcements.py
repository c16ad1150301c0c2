"""Pods that the CNI plugin tells of, by its socket, and what it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from troth.agent.cluster import announcements
from troth.agent.cluster.announcements import Announcements, Waiting
from troth.agent.cluster.cni import CniQuestion, CniVerdict, PluginSocket, PodName
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import Pod
from troth.mesh.world import World
from troth.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

UID = "11111111-2222-3333-4444-555555555555"
NAME = PodName("shop", "web", UID)
POD = Pod(uid=UID, namespace="shop", name="web", node="node-1")
QUESTION = CniQuestion(
    version=1, command="ADD", sandbox="s1", pod=NAME, addresses=("10.0.0.7",), seconds=30
)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def world(*pods: Pod) -> World:
    return World(
        trust_domain=TrustDomain.parse("cluster.local"),
        pods=Table({pod.uid: pod for pod in pods}),
    )


@pytest.fixture(autouse=True)
def own_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's own is this process's; who may look at process 1 is another matter."""
    own = Path("/proc/self/ns/net").stat().st_ino
    monkeypatch.setattr(announcements, "node_namespaces", lambda: frozenset({own}))


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[int]:
    """A descriptor that stands for a network namespace's."""
    (tmp_path / "netns").touch()
    descriptor = os.open(tmp_path / "netns", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


class Pods:
    """Announcements, and who looks at them."""

    def __init__(self) -> None:
        self.looked = asyncio.Event()
        self.made = Announcements(on_change=self.looked.set)

    async def announce(self, namespace: int, **changes: Any) -> asyncio.Task[CniVerdict]:
        self.looked.clear()
        question = msgspec.structs.replace(QUESTION, **changes)
        task = asyncio.create_task(self.made.announce(question, namespace))
        await self.looked.wait()
        return task

    def addresses(self, *pods: Pod) -> tuple[str, ...]:
        return self.made.over(world(*pods)).pods[UID].addresses


@pytest.fixture
async def pods() -> AsyncIterator[Pods]:
    made = Pods()
    yield made
    made.made.close()


async def test_an_announced_pod_has_its_address_before_the_api_server_says_so(
    pods: Pods, namespace: int
) -> None:
    await pods.announce(namespace)
    assert pods.addresses(POD) == ("10.0.0.7",)
    # Of an earlier sandbox, or of none again: the newest one counts.
    told = msgspec.structs.replace(POD, addresses=("10.0.0.9",), ready=True)
    assert pods.addresses(told) == ("10.0.0.9",)  # changed since it was announced


async def test_what_is_left_of_an_earlier_sandbox_counts_for_nothing(
    pods: Pods, namespace: int
) -> None:
    before = msgspec.structs.replace(POD, addresses=("10.0.0.3",), ready=True)
    task = await pods.announce(namespace)
    over = pods.made.over(world(before)).pods[UID]
    assert (over.addresses, over.ready) == (("10.0.0.7",), False)
    assert pods.addresses(POD) == ("10.0.0.7",)
    pods.made.look(lambda *_: CniVerdict("captured"))
    assert await task == CniVerdict("captured")
    after = msgspec.structs.replace(before, addresses=("10.0.0.7",))
    assert pods.made.over(world(after)).pods[UID].ready  # the API server's word again


async def test_the_plugin_waits_until_there_is_a_verdict(pods: Pods, namespace: int) -> None:
    task = await pods.announce(namespace)
    pods.made.look(lambda *_: Waiting(CniVerdict("refused", "not yet")))
    inode = os.fstat(namespace).st_ino
    assert not task.done()
    pods.made.look(lambda *asked: CniVerdict("captured" if asked == (UID, inode) else "out"))
    assert await task == CniVerdict("captured")
    assert pods.addresses(POD) == ("10.0.0.7",)


async def test_nothing_runs_in_a_sandbox_until_there_is_a_verdict(
    pods: Pods, namespace: int
) -> None:
    await pods.announce(namespace)
    held = {UID: Path(f"/pins/{UID}.{os.fstat(namespace).st_ino}")}
    assert pods.made.awaited(held) == held
    assert pods.made.awaited({UID: Path(f"/pins/{UID}.1")}) == pods.made.awaited({}) == {}
    pods.made.look(lambda *_: CniVerdict("captured"))
    assert pods.made.awaited(held) == {}


async def test_when_the_time_is_up_the_plugin_hears_what_is_in_the_way(
    pods: Pods, namespace: int
) -> None:
    task = await pods.announce(namespace, seconds=0.2)
    pods.made.look(lambda *_: Waiting(CniVerdict("refused", "not yet")))
    assert await task == CniVerdict("refused", "not yet")
    assert pods.addresses(POD) == ()
    task = await pods.announce(namespace, seconds=0)
    assert await task == CniVerdict("unknown", "the API server has not told of the pod yet")


async def test_a_newer_sandbox_takes_the_place_and_only_its_own_end_ends_it(
    pods: Pods, namespace: int
) -> None:
    first = await pods.announce(namespace)
    await pods.announce(namespace, sandbox="s2", addresses=("10.0.0.8",))
    assert (await first).verdict == "refused"
    pods.made.forget(QUESTION)
    assert pods.addresses(POD) == ("10.0.0.8",)
    pods.made.forget(msgspec.structs.replace(QUESTION, sandbox="s2"))
    assert pods.addresses(POD) == ()


async def test_nothing_of_the_nodes_own_network_is_captured(pods: Pods) -> None:
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        verdict = await pods.made.announce(QUESTION, own)
    finally:
        os.close(own)
    assert verdict == CniVerdict("out", "the sandbox is on the node's own network")
    assert pods.addresses(POD) == ()


async def test_a_pod_without_an_address_is_refused(pods: Pods, namespace: int) -> None:
    verdict = await pods.made.announce(msgspec.structs.replace(QUESTION, addresses=()), namespace)
    assert verdict.verdict == "refused"


async def test_descriptors_are_let_go_of(pods: Pods, namespace: int) -> None:
    before = descriptors()
    for number in range(5):
        await pods.announce(namespace, sandbox=f"s{number}")
    assert descriptors() == before + 1
    pods.made.close()
    assert descriptors() == before


# --- the socket


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name, because of the socket in it."""
    path = Path(tempfile.mkdtemp(prefix="troth-cni-"))
    yield path
    shutil.rmtree(path)


class Server:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[tuple[CniQuestion, bytes]] = []
        self.hangs = False
        self.asked = asyncio.Event()

    async def answer(self, question: CniQuestion, namespace: int | None) -> CniVerdict:
        self.heard.append((question, os.pread(namespace, 99, 0) if namespace is not None else b""))
        self.asked.set()
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        return CniVerdict("captured", "for a test")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        before = self.path.stat().st_ino if self.path.exists() else 0
        task = asyncio.create_task(PluginSocket(self.path, self.answer).serve())
        async with asyncio.timeout(10):
            while not self.path.exists() or self.path.stat().st_ino == before:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def ask(path: Path, message: bytes, *descriptors: int) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(10)
        client.connect(str(path))
        socket.send_fds(client, [message], list(descriptors))
        return client.recv(65536)


async def test_a_question_and_its_descriptor_arrive_and_the_answer_comes_back(
    short: Path, namespace: int
) -> None:
    server = Server(short / "cni.sock")
    os.write(os.open(f"/proc/self/fd/{namespace}", os.O_WRONLY), b"of the test")
    async with server.serving():
        assert server.path.stat().st_mode & 0o777 == 0o600
        told = await asyncio.to_thread(ask, server.path, msgspec.json.encode(QUESTION), namespace)
        assert told == b'{"verdict":"captured","why":"for a test"}'
        assert server.heard == [(QUESTION, b"of the test")]
        gone = msgspec.json.encode(msgspec.structs.replace(QUESTION, command="DEL"))
        await asyncio.to_thread(ask, server.path, gone)
        assert server.heard[1][1] == b""
    assert list(short.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (b"", 1),
        (b"{}", 1),
        (msgspec.json.encode(QUESTION), 0),
        (msgspec.json.encode(QUESTION), 2),
        (msgspec.json.encode(QUESTION), 3),
        (msgspec.json.encode(msgspec.structs.replace(QUESTION, version=2)), 1),
        (msgspec.json.encode(msgspec.structs.replace(QUESTION, addresses=("nonsense",))), 1),
        (msgspec.json.encode(msgspec.structs.replace(QUESTION, sandbox="a\nb")), 1),
        (msgspec.json.encode(msgspec.structs.replace(QUESTION, sandbox="a" * 70_000)), 1),
    ],
    ids=range(9),
)
async def test_what_is_no_question_is_nobodys_problem(
    short: Path, namespace: int, message: bytes, count: int
) -> None:
    server = Server(short / "cni.sock")
    async with server.serving():
        before = descriptors()
        told = await asyncio.to_thread(ask, server.path, message, *[namespace] * count)
        assert told == b"" or b'"unknown"' in told
        assert server.heard == []
        assert descriptors() == before


async def test_the_next_agent_takes_the_place_of_one_that_still_answers(
    short: Path, namespace: int
) -> None:
    old, new = Server(short / "cni.sock"), Server(short / "cni.sock")
    old.hangs = True
    message = msgspec.json.encode(QUESTION)
    async with contextlib.AsyncExitStack() as ends:
        async with old.serving():
            asked = asyncio.create_task(asyncio.to_thread(ask, old.path, message, namespace))
            await old.asked.wait()
            await ends.enter_async_context(new.serving())
        assert await asked == b""  # the plugin asks again
        assert b'"captured"' in await asyncio.to_thread(ask, new.path, message, namespace)
