"""A node's agent replaced by another under load, as an upgrade with ``maxSurge`` does it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest
from lightkube.resources.apps_v1 import DaemonSet
from lightkube.resources.core_v1 import Pod
from tests.e2e.harness import eventually
from tests.rig.mesh import NAMESPACE, ClusterMesh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.harness import Cluster
    from tests.rig.programs import Program

pytestmark = pytest.mark.cluster

NODE = "node-1"
DRAIN_SECONDS = 3.0
WAITS = "waiting for the next agent"

_numbers = itertools.count(1)

# Echoes lines of standard input by way of one connection; ends when the connection does.
TALK = """
import socket, sys
host, port = sys.argv[1].split(":")
with socket.create_connection((host, int(port)), timeout=60) as connection:
    for line in sys.stdin:
        connection.sendall(line.encode())
        answer = connection.recv(100)
        if not answer:
            sys.exit("the connection was ended")
        print(answer.decode().strip(), flush=True)
"""


class Talk:
    """A connection that stays open from a pod to an echo server."""

    def __init__(self, cluster: Cluster, namespace: str, client: str, address: str) -> None:
        self._process = cluster.start(
            namespace,
            client,
            *(sys.executable, "-c", TALK, address),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        assert self.works, f"{client} to {address}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:
            pass  # closes its pipes, and waits

    @property
    def works(self) -> bool:
        """Whether bytes still come back."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is not None:
            return False
        self._process.stdin.write("hello\n")
        return bool(self._process.stdout.readline() == "hello\n")


class Shop:
    """Pods on the node whose agent is replaced, and elsewhere, in the mesh and outside of it."""

    def __init__(self, mesh: ClusterMesh) -> None:
        self.mesh = mesh
        self.inside = mesh.namespace("handover")
        self.outside = mesh.namespace("handover-outside", in_mesh=False)
        self.web = _address(mesh.serve(self.inside, "web", NODE))
        self.far = _address(mesh.serve(self.inside, "far", "node-2"))
        mesh.client(self.inside, "near", NODE)
        mesh.client(self.inside, "friend", "node-2")
        mesh.client(self.outside, "stranger", "node-2")
        mesh.await_captured(self.inside, "web", "far", "near", "friend")

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Tunnels into the node, out of it and within it, and plaintext into it; none may fail."""
        with contextlib.ExitStack() as ends:
            for namespace, client, server in (
                (self.inside, "friend", self.web),
                (self.inside, "near", self.far),
                (self.inside, "near", self.web),
                (self.outside, "stranger", self.web),
            ):
                ends.enter_context(self.mesh.load(namespace, client, f"{server}:8080"))
            yield

    def talk(self, client: str, server: str) -> Talk:
        namespace = self.outside if client == "stranger" else self.inside
        return Talk(self.mesh.cluster, namespace, client, f"{server}:7000")

    def gets(self, client: str) -> bool:
        """Whether a client reaches the server on the node by a new connection."""
        namespace = self.outside if client == "stranger" else self.inside
        return self.mesh.get(namespace, client, f"{self.web}:8080") == "web 8080 /"


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[ClusterMesh]:
    with ClusterMesh(cluster) as running:
        yield running


@pytest.fixture(scope="module")
def shop(mesh: ClusterMesh) -> Iterator[Shop]:
    made = Shop(mesh)
    yield made
    for namespace in (made.inside, made.outside):
        mesh.cluster.client.deletecollection(Pod, namespace=namespace)


@pytest.fixture
def second(mesh: ClusterMesh) -> Iterator[Program]:
    """Another agent for the node, to be started."""
    agent = mesh.agent(NODE, name=f"{NODE}-agent-{next(_numbers)}", drain_seconds=DRAIN_SECONDS)
    yield agent
    if mesh.agents[NODE] is not agent:
        agent.kill()


def _address(pod: dict[str, Any]) -> str:
    return str(pod["status"]["podIP"])


@contextlib.contextmanager
def succeeded(mesh: ClusterMesh, second: Program) -> Iterator[Program]:
    """Have a second agent take the node over, and keep it; the first one, still running."""
    first = mesh.agents[NODE]
    second.start()
    second.await_ready(lambda: mesh.readiness(second)[0])
    mesh.agents[NODE] = second
    try:
        yield first
    finally:
        first.kill()


def test_an_agent_that_can_not_serve_all_pods_leaves_the_node_to_the_one_before(
    mesh: ClusterMesh, shop: Shop, second: Program
) -> None:
    mesh.controller.pause()  # no certificates
    try:
        with shop.load():
            second.start()
            second.await_ready(lambda: "has not handed over" in mesh.readiness(second)[1])
            second.kill()
    finally:
        mesh.controller.resume()
    assert mesh.readiness(mesh.agents[NODE])[0]


def test_an_agent_whose_rules_the_kernel_refuses_ends_and_leaves_the_node_to_the_one_before(
    mesh: ClusterMesh, shop: Shop, second: Program, tmp_path: Path
) -> None:
    nft = tmp_path / "nft"
    nft.write_text(
        f"""#!/bin/sh
(cat; echo "add table inet no
add chain inet no no {{ type filter hook output priority 0; }}
add rule inet no no redirect") | exec {shutil.which("nft")} "$@"
"""
    )
    nft.chmod(0o755)
    second.argv = ("env", f"PATH={tmp_path}:{os.environ['PATH']}", *second.argv)
    with shop.load():
        second.start()
        assert second.await_end() == 1
    assert "no pod can be captured, because the kernel refuses the rules" in second.last_words()
    assert mesh.readiness(mesh.agents[NODE])[0]


def test_an_upgrade_fails_no_request_and_the_old_agent_ends_with_its_last_connection(
    mesh: ClusterMesh, shop: Shop, second: Program
) -> None:
    with contextlib.ExitStack() as open_ones:
        ways = (("friend", shop.web), ("near", shop.far), ("stranger", shop.web))
        talks = [open_ones.enter_context(shop.talk(*way)) for way in ways]
        with shop.load(), succeeded(mesh, second) as first:
            first.ask_to_end()
            assert all(talk.works for talk in talks)
            assert first.alive
            open_ones.close()
            assert first.await_end() == 0
    # The second one has got the port that both were told to show metrics at.
    eventually(lambda: mesh.metrics(NODE).get("troth_captured_pods"), what="metrics")


def test_connections_of_the_old_agent_end_with_the_drain_period(
    mesh: ClusterMesh, shop: Shop, second: Program
) -> None:
    with shop.talk("friend", shop.web) as talk, succeeded(mesh, second) as first:
        assert talk.works
        first.ask_to_end()
        with shop.load():
            assert first.await_end() == 0
            assert not talk.works


def test_a_policy_that_comes_amid_a_handover_holds_for_both_agents(
    mesh: ClusterMesh, shop: Shop, second: Program
) -> None:
    with (
        shop.talk("friend", shop.web) as tunnel,
        shop.talk("stranger", shop.web) as plain,
        succeeded(mesh, second) as first,
    ):
        first.ask_to_end()
        assert plain.works
        mesh.policy(shop.inside, "STRICT")
        eventually(lambda: not shop.gets("stranger"), what="the refusal of new plaintext")
        eventually(lambda: not plain.works, what="the end of established plaintext")
        assert tunnel.works
        assert shop.gets("friend")
    mesh.policy(shop.inside, "PERMISSIVE")
    eventually(lambda: shop.gets("stranger"), what="plaintext again")


def test_the_old_agent_may_just_as_well_be_killed(
    mesh: ClusterMesh, shop: Shop, second: Program
) -> None:
    with succeeded(mesh, second) as first, shop.load():
        first.kill()
        assert shop.gets("friend")


def test_when_the_new_agent_dies_the_old_one_has_the_node_again(
    mesh: ClusterMesh, shop: Shop, second: Program
) -> None:
    first = mesh.agents[NODE]
    second.start()
    second.await_ready(lambda: mesh.readiness(second)[0])
    second.kill()
    eventually(lambda: shop.gets("friend") and shop.gets("stranger"), what="the old agent")
    with shop.load():
        assert mesh.readiness(first)[0]


@contextlib.contextmanager
def daemon_set(mesh: ClusterMesh) -> Iterator[None]:
    """The one that agents are of, as far as they are told: its pods are for no node."""
    labels = {"app": "troth-node"}
    container = {"name": "node", "image": "none"}
    spec = {"containers": [container], "nodeSelector": {"there": "is-none"}}
    mesh.cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"namespace": NAMESPACE, "name": "troth-node"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
    )
    yield
    mesh.cluster.delete(DaemonSet, "troth-node", NAMESPACE)


@pytest.fixture
def patient(mesh: ClusterMesh, shop: Shop) -> Program:  # noqa: ARG001 - whom it serves
    """The agent of the node, with time enough to wait for another."""
    agent = mesh.agent(NODE, name=f"{NODE}-agent-{next(_numbers)}", drain_seconds=120)
    with succeeded(mesh, agent):
        return agent


def test_a_deleted_agent_serves_until_its_successor_does_and_no_request_fails(
    mesh: ClusterMesh, shop: Shop, patient: Program, second: Program
) -> None:
    with contextlib.ExitStack() as open_ones, daemon_set(mesh), shop.load():
        ways = (("friend", shop.web), ("near", shop.far), ("stranger", shop.web))
        talks = [open_ones.enter_context(shop.talk(*way)) for way in ways]
        patient.ask_to_end()
        eventually(lambda: WAITS in patient.last_words(), what="its wait")
        second.start()
        second.await_ready(lambda: mesh.readiness(second)[0])
        mesh.agents[NODE] = second
        assert all(talk.works for talk in talks)
        assert patient.alive
        open_ones.close()
        assert patient.await_end() == 0


def test_a_deleted_agent_ends_when_troth_is_removed_and_leaves_nothing(
    mesh: ClusterMesh, shop: Shop, patient: Program
) -> None:
    mesh.client(shop.inside, "leaver", NODE)
    mesh.await_captured(shop.inside, "leaver")
    change = {"metadata": {"labels": {"troth.dev/mesh": "disabled"}}}
    mesh.cluster.client.patch(Pod, "leaver", change, namespace=shop.inside)
    mesh.await_captured(shop.inside, "leaver", captured=False)
    eventually(lambda: not mesh.redirects(shop.inside, "leaver"), what="the release")
    with daemon_set(mesh):
        patient.ask_to_end()
        eventually(lambda: WAITS in patient.last_words(), what="its wait")
        assert shop.gets("friend")
    assert patient.await_end() == 0
    assert mesh.tables(shop.inside, "leaver") == ""
    assert mesh.redirects(shop.inside, "web")
    assert patient.machine.run("ls", "/run/troth").stdout == ""
    patient.start()
    patient.await_ready(lambda: mesh.readiness(patient)[0])
