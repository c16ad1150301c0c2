"""Pods of real nodes that the CNI plugin has captured before they start."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import Event, Namespace, Pod
from tests.deploy import chart
from tests.e2e.harness import eventually
from tests.rig.nodes import images

from troth.mesh.model import CAPTURED_ANNOTATION, MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.nodes.cluster import RealCluster
    from tests.rig.nodes.node import RealNode

SYSTEM = "troth-system"
NODES = ("node-1", "node-2")
TROTH = "docker.io/library/troth:0.1.0"
HELD_BACK = "docker.io/library/held-back:1"
CONFIGURATION = "/etc/cni/net.d/0-troth.conflist"

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
def troth(cluster: RealCluster) -> Iterator[RealCluster]:
    """Troth with its plugin on all nodes, as the chart installs it."""
    cluster.namespace(SYSTEM)
    for definition in sorted((chart.DEPLOY / "crds").glob("*.yaml")):
        cluster.apply(definition.read_text())
    values = {"node": {"cni": {"enabled": True}}, "controller": {"replicas": 1}}
    made = [each for path in chart.templates() for each in chart.objects(path.name, values)]
    for each in made:
        cluster.apply(each)
    for what in ("deployment/troth-controller", "daemonset/troth-node"):
        cluster.kubectl("rollout", "status", what, f"--namespace={SYSTEM}", "--timeout=110s")
    for node in cluster.nodes.values():
        await_plugin(node)
    yield cluster
    cluster.kubectl("label", "namespaces", "--all", f"{MESH_LABEL}-")
    cluster.delete(Namespace, SYSTEM)
    for node in cluster.nodes.values():
        await_plugin(node, there=False)
    for each in made:
        if not each["metadata"].get("namespace"):
            cluster.kubectl("delete", each["kind"], each["metadata"]["name"])
    for name in ("peerauthentications.security.istio.io", "connectionreviews.troth.dev"):
        cluster.delete(CustomResourceDefinition, name)


@pytest.fixture
def shop(troth: RealCluster) -> Iterator[str]:
    """A namespace of the mesh under STRICT, with somebody outside who sends plaintext to it."""
    cluster = troth
    cluster.namespace("shop", {MESH_LABEL: "enabled"})
    cluster.apply(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"namespace": "shop", "name": "default"},
            "spec": {"mtls": {"mode": "STRICT"}},
        }
    )
    cluster.namespace("outside")
    start(cluster, "outside", "stranger", "node-1", STRANGER)
    ready(cluster, "outside", "stranger")
    yield "shop"
    cluster.delete(Namespace, "shop")
    cluster.delete(Namespace, "outside")


def await_plugin(node: RealNode, *, there: bool = True) -> None:
    file = node.file(CONFIGURATION)
    eventually(lambda: file.exists() is there, what=f"{file} to be there: {there}")


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


@contextlib.contextmanager
def image_held_back(node: RealNode) -> Iterator[None]:
    """Let the node have no image of troth for the block."""
    rename(node, TROTH, HELD_BACK)
    try:
        yield
    finally:
        rename(node, HELD_BACK, TROTH)


def rename(node: RealNode, old: str, new: str) -> None:
    ctr(node, "images", "tag", "--force", old, new)
    ctr(node, "images", "rm", old)


def ctr(node: RealNode, *words: str) -> None:
    node.machine.run(str(node._software.containerd / "ctr"), "--namespace=k8s.io", *words)


@pytest.mark.timeout(600)
def test_no_plaintext_reaches_a_strict_pod_while_agents_come_and_go(
    cluster: RealCluster, shop: str
) -> None:
    names = [f"web-{number}" for number in range(12)]
    for number, name in enumerate(names):
        start(cluster, shop, name, NODES[number % 2], LISTENER)
        if number == 3:
            cluster.kubectl("rollout", "restart", "daemonset/troth-node", f"--namespace={SYSTEM}")
        if number == 8:
            selector = "--selector=app.kubernetes.io/component=node"
            cluster.kubectl(
                "delete", "pods", selector, f"--namespace={SYSTEM}", "--grace-period=0", "--force"
            )
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
    cluster: RealCluster, shop: str
) -> None:
    node = cluster.nodes["node-2"]
    start(cluster, shop, "web", "node-2", LISTENER)
    start(cluster, "outside", "other", "node-2", LISTENER)
    ready(cluster, shop, "web")
    ready(cluster, "outside", "other")
    with image_held_back(node):
        node.__exit__(None, None, None)
        node.__enter__()
        why = f"troth: pod {shop}/web is not started uncaptured: namespace {shop} is in the mesh"
        eventually(lambda: why in reasons(cluster, shop), what="the reason why it waits")
        eventually(
            lambda: "plaintext" in first_bytes(cluster, "outside", "other"),
            what="a pod outside of the mesh, and the stranger's plaintext in it",
        )
    eventually(
        lambda: cluster.exec(shop, "web", "true").returncode == 0, what="the pod of the mesh"
    )
    ready(cluster, shop, "web")
    assert first_bytes(cluster, shop, "web") == set()
