"""Changes of mode under load, across nodes: no new connection between pods of the mesh is lost."""

from __future__ import annotations

import itertools
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
from lightkube.resources.core_v1 import Pod
from tests.e2e.calls import CHANGES, NONE, ROUND, Calls
from tests.e2e.harness import eventually
from tests.rig.mesh import ClusterMesh
from tests.rig.objects import PeerAuthentication

from troth.mesh.model import PLAINTEXT_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.harness import Cluster

SECONDS_PER_CHANGE = 8

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300 + SECONDS_PER_CHANGE * CHANGES)]


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[ClusterMesh]:
    with ClusterMesh(cluster) as running:
        yield running


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

    def calls(client: str) -> Calls:
        return Calls(partial(mesh.cluster.start, namespace, client, sys.executable), address)

    with calls("client-1") as far, calls("client-2") as near, calls("client-3") as other:
        for mode in itertools.islice(itertools.cycle(ROUND[1:]), CHANGES):
            change(mesh, namespace, mode)
            for each in (far, near, other):
                each.go_on()
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
