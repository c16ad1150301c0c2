"""Pods that the CNI plugin has captured before they start, by real agents on a real API server."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from lightkube import ApiError, Client
from lightkube.resources.core_v1 import Node, Pod
from tests.deploy import chart
from tests.e2e.harness import eventually
from tests.rig import cni
from tests.rig.harness import at_address
from tests.rig.mesh import NAMESPACE, ClusterMesh

from troth.agent.cluster.settings import CNI_PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.harness import Cluster

pytestmark = pytest.mark.cluster

_numbers = itertools.count(1)

LISTENER = """
import socket, threading
def serve(connection):
    with connection:
        first = connection.recv(100)
        if first:
            with open("/run/first-bytes", "ab") as seen:
                seen.write(first + b"\\n")
            connection.sendall(first)
listener = socket.create_server(("", 8080), backlog=500)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1]).start()
"""
"""Notes the first bytes of everybody in a file of its own."""

SENDER = """
import socket, sys, time
host, text, attempts = sys.argv[1], sys.argv[2].encode(), int(sys.argv[3])
while attempts:
    attempts -= 1
    try:
        with socket.create_connection((host, 8080), timeout=1) as connection:
            connection.sendall(text)
            if connection.recv(100) == text:
                print("answered", flush=True)
    except OSError:
        time.sleep(0.005)
        print("tried", flush=True)
print("ended", flush=True)
"""
"""Sends a text to an address again and again, from before anybody is there."""


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[ClusterMesh]:
    with ClusterMesh(cluster, with_plugin=True) as running:
        for node in running.agents:
            await_plugin(running, node)
        yield running


@pytest.fixture
def shop(mesh: ClusterMesh) -> Iterator[str]:
    """A namespace in the mesh, and under STRICT."""
    name = mesh.namespace(f"early-{next(_numbers)}")
    mesh.policy(name, "STRICT")
    yield name
    mesh.cluster.client.deletecollection(Pod, namespace=name)


@pytest.fixture
def outside(mesh: ClusterMesh) -> Iterator[str]:
    """A namespace outside of the mesh."""
    name = mesh.namespace(f"open-{next(_numbers)}", in_mesh=False)
    yield name
    mesh.cluster.client.deletecollection(Pod, namespace=name)


def is_chained(mesh: ClusterMesh, node: str) -> bool:
    return cni.is_chained(mesh.cluster.nodes[node].machine)


def await_plugin(mesh: ClusterMesh, node: str, *, there: bool = True) -> None:
    eventually(lambda: is_chained(mesh, node) is there, what=f"the plugin of {node}: {there}")


def enforced(mesh: ClusterMesh, namespace: str) -> str:
    """What a namespace's policy says of where it is in force."""
    path = '{.status.conditions[?(@.type=="Enforced")].message}'
    policy = ("get", "peerauthentication", "default", f"--namespace={namespace}")
    return mesh.cluster.kubectl(*policy, "-o", f"jsonpath={path}")


def program(text: str, *arguments: str) -> dict[str, Any]:
    return {"command": [sys.executable, "-c", text, *arguments]}


def message(mesh: ClusterMesh, namespace: str, name: str) -> str:
    """Why a pod doesn't start."""
    return str(mesh.cluster.get(Pod, name, namespace).get("status", {}).get("message") or "")


def test_not_one_byte_of_plaintext_reaches_a_strict_pod_from_its_first_moment_on(
    mesh: ClusterMesh, shop: str, outside: str
) -> None:
    address = "10.244.2.200"
    mesh.client(outside, "stranger", "node-1")
    mesh.client(shop, "friend", "node-1")
    listening = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    command = (sys.executable, "-u", "-c", SENDER, address, "plaintext", "1000000")
    with contextlib.ExitStack() as ends:
        flood = mesh.cluster.start(outside, "stranger", *command, stdout=subprocess.PIPE)
        assert flood.stdout is not None
        ends.enter_context(flood.stdout)
        ends.callback(flood.wait)
        ends.callback(flood.kill)
        # However slow the agent is, what it is slow with is the pod's start.
        mesh.agents["node-2"].pause()
        try:
            mesh.run(
                shop,
                "server",
                "node-2",
                {**program(LISTENER), **listening},
                ready=False,
                annotations=at_address(address),
            )
            worker = mesh.cluster.worker(shop, "server")
            eventually(lambda: worker.has_sandbox, what="the pod's sandbox")
            for _ in range(5):
                assert flood.stdout.readline()
        finally:
            mesh.agents["node-2"].resume()
        mesh.cluster.await_ready(shop, "server")
        sent = mesh.cluster.exec(shop, "friend", sys.executable, "-c", SENDER, address, "tls", "50")
        assert sent.stdout.split().count("answered") == 50
        assert flood.poll() is None
    seen = mesh.cluster.exec(shop, "server", "sort", "-u", "/run/first-bytes").stdout
    assert seen.split() == ["tls"]


def test_a_pods_first_connection_is_by_mutual_tls(mesh: ClusterMesh, shop: str) -> None:
    listening = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    server = mesh.run(shop, "server", "node-2", {**program(LISTENER), **listening})
    address = server["status"]["podIP"]
    once = program(f"{SENDER}time.sleep(10**6)", address, "first", "1")
    mesh.run(shop, "job", "node-1", once)
    eventually(lambda: "ended" in mesh.cluster.logs(shop, "job"), what="the end of its one attempt")
    assert mesh.cluster.logs(shop, "job").split() == ["answered", "ended"]


def test_without_an_agent_pods_of_the_mesh_wait_and_no_others(
    mesh: ClusterMesh, shop: str, outside: str
) -> None:
    mesh.serve(shop, "before", "node-3")
    agent = mesh.agents["node-3"]
    agent.kill()
    try:
        mesh.client(outside, "stranger", "node-3")
        # A namespace that nobody has told this node of may be in the mesh.
        new = mesh.namespace(f"new-{next(_numbers)}", in_mesh=False)
        for namespace in (shop, new):
            mesh.run(namespace, "waiting", "node-3", {}, ready=False)
        for namespace, why in ((shop, "is in the mesh"), (new, "is new here")):
            eventually(lambda: message(mesh, namespace, "waiting"), what="a reason")  # noqa: B023 - called at once
            told = message(mesh, namespace, "waiting")
            assert told.startswith(f"troth: pod {namespace}/waiting is not started uncaptured: ")
            assert f"namespace {namespace} {why}" in told
    finally:
        agent.start()
    mesh.await_agent("node-3")
    for namespace in (shop, new):
        mesh.cluster.await_ready(namespace, "waiting")
    assert mesh.redirects(shop, "waiting")
    assert not mesh.redirects(new, "waiting")
    mesh.cluster.client.deletecollection(Pod, namespace=new)


def test_pods_start_while_agents_replace_each_other(mesh: ClusterMesh, shop: str) -> None:
    old = mesh.agents["node-1"]
    new = mesh.agents["node-1"] = mesh.agent("node-1", name="node-1-next")
    new.start()
    for number in range(20):
        pod = mesh.client(shop, f"early-{number}", "node-1")
        assert mesh.redirects(shop, f"early-{number}")
        assert pod["metadata"]["annotations"]["troth.dev/captured"] == "true"
        if mesh.readiness(new)[0] and old.alive:
            old.ask_to_end()
    eventually(lambda: mesh.readiness(new)[0], what="the next agent")
    old.terminate()
    mesh.client(shop, "last", "node-1")
    assert mesh.redirects(shop, "last")
    assert is_chained(mesh, "node-1")


def test_an_agent_without_the_plugin_takes_it_away(mesh: ClusterMesh, shop: str) -> None:
    old = mesh.agents["node-3"]
    mesh.with_plugin = False
    try:
        new = mesh.agent("node-3", name="node-3-next")
    finally:
        mesh.with_plugin = True
    new.start()
    eventually(lambda: mesh.readiness(new)[0], what="the next agent")
    old.terminate()
    try:
        assert not is_chained(mesh, "node-3")
        gap = "on 1 without the CNI plugin (node-3), pods may take plaintext between their start"
        eventually(lambda: gap in enforced(mesh, shop), what=f"a status that says: {gap}")
        mesh.client(shop, "late", "node-3")
        mesh.await_captured(shop, "late")
    finally:
        new.terminate()
        old.start()
    await_plugin(mesh, "node-3")
    eventually(lambda: enforced(mesh, shop) == "3 of 3 nodes", what="a status without a gap")


def test_the_startup_taint_goes_when_pods_can_be_captured_and_nothing_else_does(
    mesh: ClusterMesh,
) -> None:
    def taints() -> list[str]:
        found = mesh.cluster.get(Node, "node-3")["spec"].get("taints", [])
        return [each["key"] for each in found]

    agent = mesh.agents["node-3"]
    agent.terminate()
    keys = ("example.com/other", "troth.dev/agent-not-ready")
    tainted = [{"key": key, "effect": "PreferNoSchedule"} for key in keys]
    mesh.cluster.client.patch(Node, "node-3", {"spec": {"taints": tainted}})
    policies = [
        made
        for made in chart.objects("node-admission.yaml", {"node": {"startupTaint": True}})
        if made["metadata"]["name"] == "troth-node-taints"
    ]
    try:
        for made in policies:
            mesh.cluster.apply(made)
        with Client(config=mesh.control.agent("node-3"), field_manager="test") as stolen:
            for node, change, words in (
                ("node-1", {"spec": {"unschedulable": True}}, "off its own node"),
                ("node-3", {"spec": {"taints": None}}, "nothing of its node"),
                ("node-3", {"spec": {"unschedulable": True}}, "nothing of its node"),
                ("node-3", {"metadata": {"labels": {"a": "b"}}}, "nothing of its node"),
                ("node-3", {"metadata": {"annotations": {"a": "b"}}}, "nothing of its node"),
            ):
                eventually(
                    lambda node=node, change=change: refusal(stolen, node, change),  # type: ignore[misc]  # bound at once
                    what=f"that {change} of {node} is refused",
                )
                assert words in refusal(stolen, node, change)
        agent.start()
        eventually(lambda: taints() == ["example.com/other"], what="the end of the startup taint")
    finally:
        mesh.cluster.client.patch(Node, "node-3", {"spec": {"taints": None}})
        for made in policies:
            mesh.cluster.kubectl("delete", made["kind"], made["metadata"]["name"])
    mesh.await_agent("node-3")


def refusal(client: Client, node: str, change: dict[str, Any]) -> str:
    """Why a change of a node is refused; nothing is changed in any case."""
    try:
        client.patch(Node, node, change, dry_run=True)
    except ApiError as error:
        return str(error.status.message)
    return ""


def test_with_troth_the_plugin_goes(mesh: ClusterMesh) -> None:
    # With a DaemonSet, an agent that ends waits so long for the next one.
    mesh.agents["node-2"].terminate()
    agent = mesh.agents["node-2"] = mesh.agent("node-2", drain_seconds=0.1)
    agent.start()
    eventually(lambda: mesh.readiness(agent)[0], what="the agent")
    mesh.cluster.apply(DAEMON_SET)
    try:
        # An ordinary end leaves all as it is.
        agent.terminate()
        assert is_chained(mesh, "node-2")
        agent.start()
        eventually(lambda: mesh.readiness(agent)[0], what="the agent again")
    finally:
        mesh.cluster.kubectl("delete", "daemonset", "troth-node", f"--namespace={NAMESPACE}")
    for node in mesh.agents:
        await_plugin(mesh, node, there=False)
        programs = mesh.cluster.nodes[node].machine.path(str(CNI_PROGRAMS))
        eventually(lambda: not list(programs.iterdir()), what="the end of the program, too")  # noqa: B023 - called at once
    # Whoever makes it again has all of it again.
    mesh.cluster.apply(DAEMON_SET)
    for node in mesh.agents:
        await_plugin(mesh, node)
    mesh.cluster.kubectl("delete", "daemonset", "troth-node", f"--namespace={NAMESPACE}")


DAEMON_SET = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"namespace": NAMESPACE, "name": "troth-node"},
    "spec": {
        "selector": {"matchLabels": {"for": "nobody"}},
        "template": {
            "metadata": {"labels": {"for": "nobody"}},
            "spec": {
                "nodeSelector": {"there-is": "none"},
                "containers": [{"name": "node", "image": "none"}],
            },
        },
    },
}
"""Of no pods: the agents are the test's own."""
