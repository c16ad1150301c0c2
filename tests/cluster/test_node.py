"""troth on three nodes of a real cluster: real Envoys, tunnels across nodes, a real API server."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from lightkube.resources.core_v1 import Pod
from tests.cluster.mesh import ClusterMesh
from tests.e2e.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[ClusterMesh]:
    with ClusterMesh(cluster) as running:
        yield running


@pytest.fixture
def shop(mesh: ClusterMesh) -> Iterator[str]:
    """A namespace in the mesh."""
    name = mesh.namespace(f"shop-{next(_numbers)}")
    yield name
    mesh.cluster.client.deletecollection(Pod, namespace=name)


@pytest.fixture
def outside(mesh: ClusterMesh) -> Iterator[str]:
    """A namespace outside of the mesh."""
    name = mesh.namespace(f"outside-{next(_numbers)}", in_mesh=False)
    yield name
    mesh.cluster.client.deletecollection(Pod, namespace=name)


def address(pod: dict[str, object]) -> str:
    status = pod["status"]
    assert isinstance(status, dict)
    return str(status["podIP"])


def test_a_policy_is_enforced_on_all_nodes(mesh: ClusterMesh, shop: str, outside: str) -> None:
    servers = [mesh.serve(shop, f"web-{n}", f"node-{n}") for n in (1, 2, 3)]
    mesh.client(shop, "friend", "node-1")
    mesh.client(outside, "stranger", "node-1")
    mesh.await_captured(shop, "web-1", "web-2", "web-3", "friend")

    def answers(namespace: str, client: str) -> list[str]:
        return [mesh.get(namespace, client, f"{address(pod)}:8080") for pod in servers]

    served = [f"web-{n} 8080 /" for n in (1, 2, 3)]
    assert answers(shop, "friend") == served
    assert answers(outside, "stranger") == served
    mesh.policy(shop, "STRICT")
    eventually(lambda: answers(outside, "stranger") == ["refused"] * 3, what="STRICT on all nodes")
    assert answers(shop, "friend") == served
    mesh.policy(shop, "PERMISSIVE")
    eventually(lambda: answers(outside, "stranger") == served, what="PERMISSIVE on all nodes")
