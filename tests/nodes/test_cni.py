"""Pods of real nodes that the CNI plugin has captured before they start."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from lightkube.resources.core_v1 import Event, Pod
from tests.e2e.harness import eventually
from tests.rig.nodes import images

from troth.mesh.model import CAPTURED_ANNOTATION, MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.nodes.cluster import RealCluster
    from tests.rig.nodes.installation import Installation

NODES = ("node-1", "node-2")
_numbers = itertools.count(1)

LISTENER = """
import socket, threading
def serve(connection):
    with connection:
        first = connection.recv(100)
        if first:
            with open("/tmp/first-bytes", "ab") as seen:
                seen.write(first + b"\\n")
            connection.sendall(first)
open("/tmp/first-bytes", "ab").close()
listener = socket.create_server(("", 8080), backlog=500)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1]).start()
"""
"""Notes the first bytes of everybody."""

STRANGER = """
import socket, threading, time
def send(address):
    while True:
        try:
            with socket.create_connection((address, 8080), timeout=1) as connection:
                connection.sendall(b"plaintext")
                connection.recv(100)
        except OSError:
            pass
        time.sleep(0.02)
for node in (1, 2):
    for number in range(2, 40):
        threading.Thread(target=send, args=(f"10.244.{node}.{number}",)).start()
"""
"""Sends plaintext to every address that pods get here, from before they have it."""

FRIEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 8080), timeout=5) as connection:
    connection.sendall(b"friend")
    print(connection.recv(100).decode())
"""


@pytest.fixture(scope="module")
def outside(cluster: RealCluster) -> Iterator[str]:
    """A namespace outside of the mesh, with somebody who sends plaintext to all pods."""
    cluster.namespace("outside")
    start(cluster, "outside", "stranger", "node-1", STRANGER)
    ready(cluster, "outside", "stranger")
    yield "outside"
    end(cluster, "outside")


@pytest.fixture
def shop(cluster: RealCluster, troth: Installation, outside: str) -> Iterator[str]:  # noqa: ARG001 - both are there
    """A namespace of the mesh under STRICT."""
    name = cluster.namespace(f"shop-{next(_numbers)}", {MESH_LABEL: "enabled"})
    cluster.apply(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"namespace": name, "name": "default"},
            "spec": {"mtls": {"mode": "STRICT"}},
        }
    )
    yield name
    end(cluster, name)


def end(cluster: RealCluster, namespace: str) -> None:
    """Delete a namespace; its end takes a while, and nobody waits for it."""
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def start(cluster: RealCluster, namespace: str, name: str, node: str, program: str) -> None:
    container: dict[str, Any] = {
        "name": "app",
        "image": images.APP,
        "command": ["python3", "-c", program],
    }
    if program is LISTENER:
        container["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
            },
        }
    )


def ready(cluster: RealCluster, namespace: str, *names: str) -> None:
    pods = [f"pod/{name}" for name in names]
    options = (f"--namespace={namespace}", "--for=condition=Ready", "--timeout=110s")
    cluster.kubectl("wait", *pods, *options)


def first_bytes(cluster: RealCluster, namespace: str, name: str) -> set[str]:
    seen = cluster.exec(namespace, name, "cat", "/tmp/first-bytes")  # noqa: S108 - in the pod
    assert seen.returncode == 0, seen.stderr
    return set(seen.stdout.split())


def reasons(cluster: RealCluster, namespace: str) -> str:
    return "\n".join(
        str(event.message) for event in cluster.client.list(Event, namespace=namespace)
    )


def address(cluster: RealCluster, namespace: str, name: str) -> str:
    pod: Any = cluster.client.get(Pod, name, namespace=namespace)
    return str(pod.status.podIP)


@pytest.mark.timeout(600)
def test_no_plaintext_reaches_a_strict_pod_while_agents_come_and_go(
    cluster: RealCluster, troth: Installation, shop: str
) -> None:
    names = [f"web-{number}" for number in range(12)]
    for number, name in enumerate(names):
        start(cluster, shop, name, NODES[number % 2], LISTENER)
        if number == 3:
            troth.restart_agents()
        if number == 8:
            troth.delete_agents(at_once=True)
    ready(cluster, shop, *names)
    start(cluster, shop, "friend", "node-1", "import time; time.sleep(10**6)")
    ready(cluster, shop, "friend")
    for name in names:
        pod: Any = cluster.client.get(Pod, name, namespace=shop)
        assert pod.metadata.annotations[CAPTURED_ANNOTATION] == "true"
        said = cluster.exec(shop, "friend", "python3", "-c", FRIEND, pod.status.podIP)
        assert said.stdout == "friend\n", said.stderr
        assert first_bytes(cluster, shop, name) == {"friend"}


@pytest.mark.timeout(600)
def test_after_a_reboot_pods_of_the_mesh_wait_for_the_agent(
    cluster: RealCluster, shop: str, outside: str
) -> None:
    node = cluster.nodes["node-2"]
    start(cluster, shop, "web", "node-2", LISTENER)
    start(cluster, outside, "other", "node-2", LISTENER)
    ready(cluster, shop, "web")
    ready(cluster, outside, "other")
    with node.image_held_back():
        node.reboot()
        why = f"troth: pod {shop}/web is not started uncaptured: namespace {shop} is in the mesh"
        eventually(lambda: why in reasons(cluster, shop), what="the reason why it waits")
        eventually(
            lambda: "plaintext" in first_bytes(cluster, outside, "other"),
            what="a pod outside of the mesh, and the stranger's plaintext in it",
        )
    eventually(
        lambda: cluster.exec(shop, "web", "true").returncode == 0, what="the pod of the mesh"
    )
    ready(cluster, shop, "web")
    assert first_bytes(cluster, shop, "web") == set()
