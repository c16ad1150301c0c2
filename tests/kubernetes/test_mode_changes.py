"""Changes of mode under load, across nodes: no new connection between pods of the mesh is lost."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest
from lightkube.resources.core_v1 import Pod
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import eventually
from tests.e2e.test_mode_changes import NONE, ROUND
from tests.rig.mesh import ClusterMesh
from tests.rig.objects import PeerAuthentication

from troth.mesh.model import PLAINTEXT_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.harness import Cluster

CHANGES = int(os.environ.get("TROTH_MODE_CHANGES", "24"))
SECONDS_PER_CHANGE = 8
CALLERS = str(PROGRAMS / "callers.py")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300 + SECONDS_PER_CHANGE * CHANGES)]


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[ClusterMesh]:
    with ClusterMesh(cluster) as running:
        yield running


class Calls:
    """Calls of a server by new connections, several at a time, while the context lasts."""

    def __init__(self, mesh: ClusterMesh, namespace: str, pod: str, host: str) -> None:
        self._mesh = mesh
        self._what = (namespace, pod, host)

    def __enter__(self) -> Self:
        namespace, pod, host = self._what
        self._process = self._mesh.cluster.start(
            namespace,
            pod,
            *(sys.executable, CALLERS, host, "8080"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.go_on()
        return self

    def __exit__(self, *error: object) -> None:
        out, _ = self._process.communicate("")
        seen: dict[str, Any] = json.loads(out)
        if error == (None, None, None):
            assert seen["failed"] == [], f"{self._what}: {len(seen['failed'])} of {seen['count']}"

    def go_on(self) -> None:
        """Wait until there have been some more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "going on\n"


def change(mesh: ClusterMesh, namespace: str, mode: str) -> None:
    """Make this the namespace's only mode, and wait until all nodes enforce it."""
    before = {mesh.report(node)["policies"] for node in mesh.agents}
    if mode == NONE:
        mesh.cluster.client.delete(PeerAuthentication, "default", namespace=namespace)
    else:
        mesh.policy(namespace, mode)

    def is_everywhere() -> bool:
        enforced = {mesh.report(node)["policies"] for node in mesh.agents}
        return len(enforced) == 1 and not enforced & before

    eventually(is_everywhere, what=f"{mode} on all nodes")


def test_no_change_of_mode_loses_a_new_connection_between_nodes(mesh: ClusterMesh) -> None:
    namespace = mesh.namespace("modes")
    server = mesh.serve(namespace, "web", "node-2")
    address = server["status"]["podIP"]
    for number in (1, 2, 3):
        mesh.client(namespace, f"client-{number}", f"node-{number}")
    mesh.await_captured(namespace, "web", "client-1", "client-2", "client-3")
    with (
        Calls(mesh, namespace, "client-1", address) as far,
        Calls(mesh, namespace, "client-2", address) as near,
        Calls(mesh, namespace, "client-3", address) as other,
    ):
        for mode in itertools.islice(itertools.cycle(ROUND[1:]), CHANGES):
            change(mesh, namespace, mode)
            for calls in (far, near, other):
                calls.go_on()
    mesh.cluster.client.deletecollection(Pod, namespace=namespace)


def plaintext(mesh: ClusterMesh, namespace: str, pod: str) -> str | None:
    """Where other nodes are told that a pod takes plaintext."""
    annotations: dict[str, str] = mesh.cluster.get(Pod, pod, namespace)["metadata"].get(
        "annotations", {}
    )
    return annotations.get(PLAINTEXT_ANNOTATION)


def test_a_node_that_does_not_answer_does_not_keep_a_port_open(mesh: ClusterMesh) -> None:
    namespace = mesh.namespace("silence")
    outside = mesh.namespace("outside-silence", in_mesh=False)
    address = mesh.serve(namespace, "web", "node-2")["status"]["podIP"]
    mesh.client(namespace, "friend", "node-1")
    mesh.client(namespace, "silent", "node-3")
    mesh.client(outside, "stranger", "node-2")
    mesh.await_captured(namespace, "web", "friend", "silent")
    url = f"{address}:8080"
    change(mesh, namespace, "DISABLE")
    eventually(lambda: plaintext(mesh, namespace, "web") == "all", what="the annotation")
    assert mesh.get(outside, "stranger", url) == "web 8080 /"
    mesh.agents["node-3"].pause()
    try:
        mesh.policy(namespace, "STRICT")
        eventually(lambda: mesh.get(outside, "stranger", url) == "refused", what="STRICT")
        assert plaintext(mesh, namespace, "web") is None
        assert mesh.get(namespace, "friend", url) == "web 8080 /"
    finally:
        mesh.agents["node-3"].resume()
    eventually(lambda: mesh.get(namespace, "silent", url) == "web 8080 /", what="node-3's return")
    for each in (namespace, outside):
        mesh.cluster.client.deletecollection(Pod, namespace=each)
