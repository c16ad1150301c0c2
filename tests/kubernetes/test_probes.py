"""Whose connections pass for the kubelet's probes, judged by the kernel; needs root for cgroups."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest
from tests.agent.test_host_rules import BOTH, POD, POD_V6, PORT, Net, running, until
from tests.agent.test_kubelet import LISTENS
from tests.rig.machine import CgroupTree, in_cgroups

from troth.agent.capture import PROBE_SOURCE_V4, PROBE_SOURCE_V6
from troth.agent.host_rules import HostRules
from troth.agent.kubelet import find_kubelet
from troth.agent.netns import socket_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import InNode

    from troth.agent.kubelet import Cgroup

pytestmark = pytest.mark.cluster

KUBELET, SUCCESSOR = "system.slice/kubelet.service", "system.slice/kubelet-2.service"
INGRESS = "kubepods.slice/ingress.scope"
HOST, HOST_V6 = "10.9.1.1", "fd99:1::1"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


@contextlib.contextmanager
def cgroups() -> Iterator[CgroupTree]:
    tree = CgroupTree(f"troth-test-{uuid.uuid4().hex[:8]}")
    for group in (KUBELET, SUCCESSOR, INGRESS):
        tree.make(group)
    try:
        yield tree
    finally:
        tree.remove()


@contextlib.contextmanager
def kubelet(group: Path) -> Iterator[None]:
    command = in_cgroups([group], sys.executable, "-c", LISTENS)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        try:
            yield
        finally:
            process.kill()


def seen(net: Net, address: str, group: Path, *as_user: str, source: int = 0) -> str:
    """Where the pod sees a process of that cgroup come from."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connect = connecting(address, source)
    with socket_in(net.pod, family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, PORT))
        server.listen()
        server.settimeout(5)
        subprocess.run(in_cgroups([group], *as_user, *connect), check=True)
        with server.accept()[0] as connection:
            return str(connection.getpeername()[0])


def connecting(address: str, source: int) -> tuple[str, ...]:
    """A command that connects from a port of its own choice; 0 for any."""
    if not source:
        return ("bash", "-c", f"exec 3<>/dev/tcp/{address}/{PORT}")
    connect = f"create_connection({(address, PORT)}, source_address=('', {source}))"
    return (sys.executable, "-c", f"import socket; socket.{connect}")


def only_the_kubelets_cgroup_passes(directory: Path) -> None:
    net = Net(directory)
    with cgroups() as tree, kubelet(tree.root / KUBELET):
        asyncio.run(HostRules(net.host).let_in(BOTH))
        assert seen(net, POD, tree.root / KUBELET) == PROBE_SOURCE_V4
        assert seen(net, POD_V6, tree.root / KUBELET) == PROBE_SOURCE_V6
        assert seen(net, POD, tree.root / INGRESS) == HOST
        assert seen(net, POD_V6, tree.root / INGRESS) == HOST_V6
        assert seen(net, POD, tree.root / KUBELET, *NOBODY) == HOST


def nobody_else_passes_while_the_rules_are_made(directory: Path) -> None:
    net = Net(directory)
    passed = []

    class Watched(HostRules):
        def _list(self, cgroup: Cgroup) -> None:
            passed.append(seen(net, POD, tree.root / INGRESS))
            super()._list(cgroup)
            passed.append(seen(net, POD, tree.root / INGRESS))

    with cgroups() as tree, kubelet(tree.root / KUBELET):
        asyncio.run(Watched(net.host).let_in(BOTH))
        assert passed == [HOST] * 4
        assert seen(net, POD, tree.root / KUBELET) == PROBE_SOURCE_V4


def a_port_that_the_kubelet_has_just_used_is_worth_nothing(directory: Path) -> None:
    net = Net(directory)
    with cgroups() as tree, kubelet(tree.root / KUBELET):
        asyncio.run(HostRules(net.host).let_in(BOTH))
        for address, own, source in ((POD, HOST, 40_004), (POD_V6, HOST_V6, 40_006)):
            # Refused, as nobody listens: the port is free at once.
            probe = in_cgroups([tree.root / KUBELET], *connecting(address, source))
            assert subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 1
            assert seen(net, address, tree.root / INGRESS, *NOBODY, source=source) == own


def a_kubelet_that_starts_again_is_found(directory: Path) -> None:
    net = Net(directory)

    async def scene(tree: CgroupTree) -> None:
        rules = HostRules(net.host)
        with kubelet(tree.root / KUBELET):
            await rules.let_in(BOTH)
            assert seen(net, POD, tree.root / KUBELET) == PROBE_SOURCE_V4
        async with running(rules):
            with kubelet(tree.root / SUCCESSOR):
                await until(lambda: seen(net, POD, tree.root / SUCCESSOR) == PROBE_SOURCE_V4)
                assert seen(net, POD, tree.root / KUBELET) == HOST

    with cgroups() as tree:
        asyncio.run(scene(tree))


def without_a_cgroup_of_the_kubelets_own_root_passes_alone(directory: Path) -> None:
    net = Net(directory)
    with cgroups() as tree:
        asyncio.run(HostRules(net.host).let_in(BOTH))
        assert seen(net, POD, tree.root / INGRESS) == PROBE_SOURCE_V4
        assert seen(net, POD, tree.root / INGRESS, *NOBODY) == HOST


def who_is_in_a_cgroup_below_the_kubelets_is_not_the_kubelet(directory: Path) -> None:
    net = Net(directory)
    with cgroups() as tree:
        pod = tree.make(f"{KUBELET}/kubepods.slice/ingress.scope")
        with kubelet(tree.root / KUBELET):
            asyncio.run(HostRules(net.host).let_in(BOTH))
            assert seen(net, POD, tree.root / KUBELET) == PROBE_SOURCE_V4
            assert seen(net, POD, pod) == HOST
            assert seen(net, POD_V6, pod) == HOST_V6


def a_container_on_the_kubelets_port_is_not_the_kubelet(_: Path) -> None:
    name = "0123456789abcdef" * 4
    for group in (f"system.slice/docker-{name}.scope", f"docker/{name}"):
        with cgroups() as tree, kubelet(tree.make(group)):
            assert find_kubelet() is None


def it_is_told_when_others_may_pass_for_the_kubelet(directory: Path) -> None:
    net = Net(directory)
    with cgroups() as tree:
        rules = HostRules(net.host)
        asyncio.run(rules.let_in(BOTH))
        assert rules.leniency == "no kubelet listens on port 10250"
        with kubelet(tree.root / KUBELET):
            asyncio.run(rules.let_in(BOTH[:1]))
            assert rules.leniency == ""


def a_pods_process_on_the_kubelets_port_is_not_the_kubelet(_: Path) -> None:
    pod = f"kubepods.slice/kubepods-pod{str(uuid.uuid4()).replace('-', '_')}.slice"
    with cgroups() as tree, kubelet(tree.make(pod)):
        assert find_kubelet() is None


@pytest.mark.parametrize(
    "scene",
    [
        only_the_kubelets_cgroup_passes,
        nobody_else_passes_while_the_rules_are_made,
        a_port_that_the_kubelet_has_just_used_is_worth_nothing,
        a_kubelet_that_starts_again_is_found,
        without_a_cgroup_of_the_kubelets_own_root_passes_alone,
        who_is_in_a_cgroup_below_the_kubelets_is_not_the_kubelet,
        a_pods_process_on_the_kubelets_port_is_not_the_kubelet,
        a_container_on_the_kubelets_port_is_not_the_kubelet,
        it_is_told_when_others_may_pass_for_the_kubelet,
    ],
    ids=lambda scene: scene.__name__.replace("_", " "),
)
def test_probes_in_the_kernel(
    scene: Callable[[Path], None], in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(scene, tmp_path)
