"""Not one byte of plaintext, from a pod's first moment on and whatever happens to its node.

Somebody outside of the mesh sends plaintext to every address from before there is a pod, and each
pod says the first words of everybody. Each pod itself sends words from its first instruction on,
and the nodes count the packets in which they can be read. TROTH_LONG=1 starts 200 pods where it
is 16 else.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from lightkube.resources.core_v1 import Event, Pod
from tests.e2e.harness import eventually
from tests.rig.nodes.installation import NAMESPACE, another_version
from tests.rig.nodes.workloads import container, pod, strict

from troth.mesh.model import CAPTURED_ANNOTATION, MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.rig.nodes.cluster import RealCluster
    from tests.rig.nodes.installation import Installation

LONG = "TROTH_LONG" in os.environ
MANY = 200 if LONG else 16
FEW = 6
AT_A_TIME = 3
"""How many pods may be on their way at the same time."""

pytestmark = pytest.mark.timeout(2400 if LONG else 600)

NODES = ("node-1", "node-2")
INSIDE, OUTSIDE = "rain", "clouds"
AGENT = "troth.agent.cluster"
AGENTS = (f"--namespace={NAMESPACE}", "--selector=app.kubernetes.io/component=node")

FRIEND = """
import socket, sys
for address in sys.argv[1:]:
    try:
        with socket.create_connection((address, 8080), timeout=5) as connection:
            connection.sendall(b"friend")
            assert connection.recv(100) == b"friend", "no answer"
    except (OSError, AssertionError) as error:
        print(address, repr(error))
"""

# Where a pod's first words stand in a packet: behind 20 bytes of TCP header and 12 of timestamps.
WORDS = "eager-"
SEEN = f"tcp dport 8080 @th,256,{8 * len(WORDS)} 0x{WORDS.encode().hex()} counter name seen"
WIRE = "".join(
    f"table {family} wire {{ counter seen {{ }}; chain seen {{"
    f" type filter hook forward priority 0; {SEEN}; }}; }};"
    for family in ("inet", "bridge")
)


class Rain:
    """Pods of the mesh under STRICT, and the plaintext that pours on them."""

    def __init__(self, cluster: RealCluster) -> None:
        self.cluster = cluster
        self.sinks: tuple[str, ...] = ()
        self._count = 0

    def start(self, namespace: str, name: str, node: str, *argv: str) -> None:
        probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 300}
        serving = container("python3", *argv, startupProbe=probe)
        self.cluster.apply(pod(namespace, name, serving, nodeName=node))

    def listen(self, namespace: str, name: str, node: str) -> str:
        """Run a pod that only listens; its address."""
        self.start(namespace, name, node, "/app/first_words.py", "")
        self.cluster.kubectl("wait", f"pod/{name}", f"--namespace={namespace}", *READY)
        found: Any = self.cluster.client.get(Pod, name, namespace=namespace)
        return str(found.status.podIP)

    def fall(
        self,
        count: int,
        *,
        on: tuple[str, ...] = NODES,
        before: Mapping[int, Callable[[], object]] = MappingProxyType({}),
        until: Callable[[], bool] = lambda: True,
    ) -> list[str]:
        """Start pods one after another, a few at a time, and wait until all are ready.

        Args:
            count: How many at least.
            on: The names of their nodes.
            before: What to do before a pod is started, by the pod's number.
            until: Whether that many are enough.
        """
        names: list[str] = []
        for number in itertools.count():
            if number >= count and until():
                break
            if number in before:
                before[number]()
            eventually(lambda: self._under_way(names) < AT_A_TIME, what="pods to be ready")
            self._count += 1
            name = f"drop-{self._count}"
            words = ("/app/first_words.py", f"{WORDS}{name}", *self.sinks)
            self.start(INSIDE, name, on[number % len(on)], *words)
            names.append(name)
        eventually(lambda: not self._under_way(names), what="all pods to be ready")
        return names

    def check(self, names: list[str], *, at_once: bool = False) -> None:
        """Nothing has got in or out in plaintext, and what is allowed does.

        Args:
            names: The pods.
            at_once: Whether their own connections must have succeeded at the first attempt.
        """
        pods = {str(each.metadata.name): each for each in self._pods()}
        marks = {name: pods[name].metadata.annotations.get(CAPTURED_ANNOTATION) for name in names}
        assert set(marks.values()) == {"true"}, marks
        addresses = [str(pods[name].status.podIP) for name in names]
        asked = self.cluster.exec(INSIDE, "friend", "python3", "-c", FRIEND, *addresses)
        assert (asked.stdout, asked.returncode) == ("", 0)
        said = self.said(INSIDE)
        for name in names:
            lines = set(said[name])
            assert {line for line in lines if line.startswith("heard")} == {"heard friend"}, name
            assert lines >= {f"answered {sink}" for sink in self.sinks}, name
            assert not at_once or not [line for line in lines if line.startswith("failed")], lines
        assert "heard plaintext" in self.said(OUTSIDE)["control"]
        assert self.seen_on_the_wire() == 0

    def end(self, names: list[str]) -> None:
        """Delete pods; no waiting."""
        self.cluster.kubectl("delete", "pods", f"--namespace={INSIDE}", "--wait=false", *names)

    def said(self, namespace: str) -> dict[str, list[str]]:
        """What pods have said, also before their nodes were rebooted."""
        nodes = self.cluster.nodes.values()
        return {name: lines for node in nodes for name, lines in node.output(namespace).items()}

    def seen_on_the_wire(self) -> int:
        """How many packets with pods' words have come by nodes that forwarded them."""
        counters = [
            each["counter"]["packets"]
            for node in self.cluster.nodes.values()
            for each in json.loads(node.machine.run("nft", "-j", "list", "counters").stdout)[
                "nftables"
            ]
            if each.get("counter", {}).get("table") == "wire"
        ]
        assert len(counters) == 2 * len(self.cluster.nodes)
        return sum(counters)

    def have_run_again(self, names: list[str]) -> bool:
        """Whether pods' containers have been restarted, and are ready."""
        states = {
            str(each.metadata.name): each.status.containerStatuses or () for each in self._pods()
        }
        return all(state.restartCount and state.ready for name in names for state in states[name])

    def _under_way(self, names: list[str]) -> int:
        ready = {
            str(each.metadata.name)
            for each in self._pods()
            if any(c.type == "Ready" and c.status == "True" for c in each.status.conditions or ())
        }
        return len(set(names) - ready)

    def _pods(self) -> list[Any]:
        return list(self.cluster.client.list(Pod, namespace=INSIDE))


READY = ("--for=condition=Ready", "--timeout=110s")


@pytest.fixture(scope="module")
def rain(cluster: RealCluster, troth: Installation) -> Iterator[Rain]:  # noqa: ARG001 - it runs
    """Whoever sends plaintext does so, is heard outside of the mesh, and can be seen there."""
    scene = Rain(cluster)
    cluster.namespace(OUTSIDE)
    cluster.namespace(INSIDE, {MESH_LABEL: "enabled"})
    cluster.apply(strict(INSIDE))
    for node in cluster.nodes.values():
        node.machine.run("nft", WIRE)
    firsts = [node.next_pod_address() for node in cluster.nodes.values()]
    scene.start(OUTSIDE, "stranger", "node-1", "/app/knocker.py", "plaintext", *firsts)
    control = scene.listen(OUTSIDE, "control", "node-2")
    beside = scene.listen(OUTSIDE, "beside", "node-1")
    words = ("/app/first_words.py", f"{WORDS}outside", control, beside)
    scene.start(OUTSIDE, "eager", "node-1", *words)
    eventually(
        lambda: f"answered {control}" in scene.said(OUTSIDE).get("eager", ()), what="an answer"
    )
    eventually(
        lambda: f"answered {beside}" in scene.said(OUTSIDE).get("eager", ()), what="an answer"
    )
    # By the bridge of node-1, and by the routes of both.
    assert scene.seen_on_the_wire() >= 3
    for node in cluster.nodes.values():
        node.machine.run("nft", "reset counters")
    scene.sinks = tuple(scene.listen(INSIDE, f"sink-{node}", node) for node in NODES)
    scene.listen(INSIDE, "friend", "node-1")
    yield scene
    cluster.kubectl("delete", "namespace", INSIDE, OUTSIDE, "--wait=false")


def test_no_pod_is_open_while_agents_are_upgraded_and_restarted(
    rain: Rain, troth: Installation
) -> None:
    def upgrade() -> None:
        (tag,) = {another_version(node) for node in rain.cluster.nodes.values()}
        troth.apply(tag)

    changed, enough = threading.Event(), threading.Event()

    def change() -> None:
        for each in itertools.cycle((upgrade, troth.restart_agents, troth.apply)):
            each()
            troth.await_rollout()
            changed.set()
            if enough.is_set():
                return

    with ThreadPoolExecutor(1) as pool:
        changes = pool.submit(change)
        try:
            names = rain.fall(MANY, until=lambda: changed.is_set() or changes.done())
        finally:
            enough.set()
        changes.result()
    troth.apply()
    troth.await_rollout()
    rain.check(names, at_once=True)
    rain.end(names)


@pytest.mark.parametrize("program", ["containerd", "kubelet"])
def test_no_pod_is_open_when_what_runs_it_is_restarted(rain: Rain, program: str) -> None:
    node = rain.cluster.nodes["node-1"]
    names = rain.fall(FEW, on=("node-1",), before={FEW // 2: lambda: node.restart(program)})
    rain.check(names)
    rain.end(names)


def test_no_pod_is_open_when_its_agent_is_killed(rain: Rain) -> None:
    node = rain.cluster.nodes["node-1"]
    names = rain.fall(FEW, on=("node-1",), before={FEW // 2: lambda: node.kill(AGENT)})
    rain.check(names)
    rain.end(names)


def test_no_pod_is_open_when_its_agent_has_no_memory(rain: Rain) -> None:
    node = rain.cluster.nodes["node-1"]
    names = rain.fall(FEW, on=("node-1",), before={FEW // 2: lambda: node.exhaust_memory(AGENT)})
    eventually(
        lambda: "OOMKilled" in rain.cluster.kubectl("get", "pods", *AGENTS, "--output=json"),
        what="the kubelet to say why the agent ended",
    )
    rain.check(names)
    rain.end(names)


@pytest.mark.parametrize("at_once", [False, True], ids=["in time", "at once"])
def test_no_pod_is_open_when_all_agents_are_deleted(
    rain: Rain, troth: Installation, *, at_once: bool
) -> None:
    deletion = functools.partial(troth.delete_agents, at_once=at_once)
    names = rain.fall(FEW, before={FEW // 2: deletion})
    troth.await_rollout()
    rain.check(names)
    rain.end(names)


def test_no_pod_is_open_when_another_program_writes_the_network_configuration(rain: Rain) -> None:
    node = rain.cluster.nodes["node-1"]
    before = dict.fromkeys(range(1, FEW), node.install_network)
    names = rain.fall(FEW, on=("node-1",), before=before)
    rain.check(names)
    rain.end(names)


def test_no_pod_is_open_after_a_reboot_with_the_agents_image_held_back(
    rain: Rain, cluster: RealCluster
) -> None:
    node = cluster.nodes["node-2"]
    names = rain.fall(FEW, on=("node-2",))
    with node.image_held_back():
        node.reboot()
        node.machine.run("nft", WIRE)

        def waiting() -> bool:
            events = cluster.client.list(Event, namespace=INSIDE)
            told = "\n".join(str(event.message) for event in events)
            return all(f"pod {INSIDE}/{name} is not started uncaptured" in told for name in names)

        eventually(waiting, what="all pods to wait for the agent")
    eventually(lambda: rain.have_run_again(names), what="all pods to run again")
    rain.check(names)
    rain.end(names)
