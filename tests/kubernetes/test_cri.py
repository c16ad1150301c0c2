"""Pods' network namespaces as container runtimes tell them: a real containerd, runc and CNI."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import msgspec
import pytest
from tests.rig.containerd import Containerd

from troth.agent import netns
from troth.agent.cluster import cri
from troth.agent.cluster.cri import RuntimeFinder, SandboxInfo
from troth.agent.netlink import addresses
from troth.agent.pod_namespaces import Pins, find_by_cgroup
from troth.mesh.model import Pod

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from tests.conftest import InNode

POD = Pod(uid="11111111-2222-3333-4444-555555555555", namespace="shop", name="web")
STATIC = Pod(uid="of-the-mirror", namespace="shop", name="static", kubelet_uid="0" * 31 + "1")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, because of the sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="troth-cri-"))
    yield path
    shutil.rmtree(path)


async def nobody_else(pods: Collection[Pod]) -> Mapping[str, Collection[Path]]:
    assert not pods, "the runtime did not tell"
    return {}


def nothing() -> None:
    pass


async def the_runtime_names_the_namespace_that_has_the_pods_address(directory: Path) -> None:
    with Containerd(directory) as runtime:
        pods = [
            msgspec.structs.replace(pod, addresses=(runtime.run(pod),)) for pod in (POD, STATIC)
        ]
        finder = RuntimeFinder(runtime.socket, otherwise=nobody_else, on_change=nothing)
        found = await finder(pods)
        by_cgroup = await find_by_cgroup(pods)
        for pod in pods:
            (place,) = found[pod.uid]
            assert addresses(place) >= set(pod.addresses)
            # Real runtimes name cgroups as expected, too.
            (other,) = by_cgroup[pod.uid]
            assert netns.inode(place) == netns.inode(other)
        pins = Pins(directory / "pins", finder=finder, on_change=nothing)
        pins.start()
        assert set(await pins.find(pods)) == {pod.uid for pod in pods}
        assert pins.hold(pods[0], next(iter(found[POD.uid]))) == pins.held[POD.uid]
        pins.close()


async def a_runtime_that_cannot_be_asked_is_named_and_cgroups_tell(directory: Path) -> None:
    changes: list[str] = []
    with Containerd(directory) as runtime:
        pod = msgspec.structs.replace(POD, addresses=(runtime.run(POD),))
        finder = RuntimeFinder(
            runtime.socket,
            otherwise=find_by_cgroup,
            on_change=lambda: changes.append(finder.trouble),
        )
        before = await finder([pod])
        assert finder.trouble == ""
        runtime.stop()
        assert [netns.inode(place) for place in (await finder([pod]))[pod.uid]] == [
            netns.inode(place) for place in before[pod.uid]
        ]
        assert f"container runtime at {runtime.socket}: ListPodSandbox: UNAVAILABLE" in changes[0]
        runtime.start()
        async with asyncio.timeout(30):
            while finder.trouble:
                await finder([pod])
        assert changes == [changes[0], ""]


@pytest.mark.cluster
@pytest.mark.parametrize(
    "scene",
    [
        the_runtime_names_the_namespace_that_has_the_pods_address,
        a_runtime_that_cannot_be_asked_is_named_and_cgroups_tell,
    ],
    ids=lambda scene: scene.__name__.replace("_", " "),
)
def test_containerd(
    scene: Callable[[Path], None], in_node_namespace: InNode, directory: Path
) -> None:
    in_node_namespace(scene, directory)


async def test_an_answer_of_the_size_that_the_kubelet_takes_is_read(directory: Path) -> None:
    sandboxes = cri.RESPONSES["ListPodSandbox"]()
    for _ in range(15):
        sandboxes.items.add(id="x" * 2**20).metadata.uid = "another"

    async def list_them(_request: bytes, _context: object) -> bytes:
        return bytes(sandboxes.SerializeToString())

    handlers = {"ListPodSandbox": grpc.unary_unary_rpc_method_handler(list_them)}
    server = grpc.aio.server()
    server.add_registered_method_handlers("runtime.v1.RuntimeService", handlers)
    server.add_insecure_port(f"unix:{directory}/cri.sock")
    await server.start()
    for name in ("self", "1"):
        (directory / name / "ns").mkdir(parents=True)
        (directory / name / "ns" / "net").symlink_to("/proc/self/ns/net")
    asked: list[Pod] = []

    async def others(pods: Collection[Pod]) -> Mapping[str, Collection[Path]]:
        asked.extend(pods)
        return {}

    finder = RuntimeFinder(
        directory / "cri.sock", otherwise=others, on_change=nothing, proc=directory
    )
    try:
        await finder([POD])
    finally:
        await server.stop(None)
    assert (finder.trouble, asked) == ("", [POD])


@pytest.mark.parametrize(
    ("info", "places"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({"pid": 7}, ["7/ns/net"], id="a process"),
        pytest.param({"pid": -7}, [], id="no PID"),
        pytest.param(
            {
                "pid": 7,
                "runtimeSpec": {
                    "linux": {
                        "namespaces": [
                            {"type": "pid"},
                            {"type": "network", "path": "/var/run/netns/cni-1"},
                        ]
                    }
                },
            },
            ["1/root/run/netns/cni-1", "7/ns/net"],
            id="containerd",
        ),
        pytest.param(
            {"runtimeSpec": {"linux": {"namespaces": [{"type": "network", "path": "/proc/9/ns"}]}}},
            ["1/root/proc/9/ns"],
            id="another path",
        ),
        *(
            pytest.param(
                {"runtimeSpec": {"linux": {"namespaces": [{"type": "network", "path": path}]}}},
                [],
                id=f"bad path {path}",
            )
            for path in ("", "netns/x", "/run/netns/../../proc/1/ns/net")
        ),
    ],
)
def test_a_sandboxs_info_tells_where_its_namespace_may_be(
    info: dict[str, object], places: list[str]
) -> None:
    found = msgspec.convert(info, SandboxInfo).places(Path("/proc"))
    assert [str(place.relative_to("/proc")) for place in found] == places
