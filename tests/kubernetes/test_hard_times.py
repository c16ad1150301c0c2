"""Objects as big as the API server takes them, and a minute without it.

They have a cluster of their own: kube-proxy and the controllers follow the API server again only
by and by after such an outage.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from lightkube.resources.core_v1 import Service
from tests.e2e.harness import eventually
from tests.rig.harness import NODES, Cluster
from tests.rig.mesh import ClusterMesh

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def mesh() -> Iterator[ClusterMesh]:
    with Cluster(nodes=NODES[:2]) as cluster, ClusterMesh(cluster) as running:
        yield running


def test_objects_of_a_megabyte_hold_nothing_up(mesh: ClusterMesh) -> None:
    shop, outside = mesh.namespace("shop"), mesh.namespace("outside", in_mesh=False)
    server = mesh.serve(shop, "web", "node-2")
    mesh.client(shop, "friend", "node-1")
    mesh.client(outside, "stranger", "node-1")
    mesh.await_captured(shop, "web", "friend")
    variable = {"name": "BIG", "value": "x" * 2**20}
    container = {"name": "app", "image": "test", "env": [variable]}
    big: dict[str, Any] = {
        "metadata": {"namespace": shop, "name": "big"},
        "spec": {"schedulerName": "nobody"},
    }
    big["spec"]["containers"] = [container]
    mesh.cluster.run_pod(big, ready=False)
    for made in big_service(shop, server["status"]["podIP"]):
        mesh.cluster.apply(made)
    service = mesh.cluster.get(Service, "big", shop)["spec"]["clusterIP"]
    mesh.policy(shop, "STRICT")
    url = f"{server['status']['podIP']}:8080"
    eventually(lambda: mesh.get(outside, "stranger", url) == "refused", what="STRICT")
    eventually(lambda: mesh.get(shop, "friend", service) == "web 8080 /", what="an answer")


def big_service(namespace: str, address: str) -> Iterator[dict[str, object]]:
    """A service with as many endpoints as a slice may have, of which one is ready."""
    metadata = {"namespace": namespace, "name": "big"}
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"ports": ports},
    }
    others = [
        {
            "addresses": [f"10.99.{n // 250}.{n % 250 + 1}"],
            "conditions": {"ready": False},
            "targetRef": {
                "kind": "Pod",
                "name": "x" * 253,
                "namespace": "y" * 63,
                "uid": "z" * 500,
            },
        }
        for n in range(999)
    ]
    yield {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata | {"labels": {"kubernetes.io/service-name": "big"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}, *others],
    }


def test_a_minute_without_api_server_fails_no_request_and_all_is_caught_up_with(
    mesh: ClusterMesh,
) -> None:
    shop, outside = mesh.namespace("busy"), mesh.namespace("beside", in_mesh=False)
    server = mesh.serve(shop, "web", "node-2")
    mesh.client(shop, "friend", "node-1")
    mesh.client(outside, "stranger", "node-1")
    mesh.await_captured(shop, "web", "friend")
    url = f"{server['status']['podIP']}:8080"
    (before,) = mesh.report("node-2")["roots"]
    plane = mesh.cluster.control_plane
    with mesh.load(shop, "friend", url):
        mesh.rotate()  # so that all certificates are due for renewal
        with plane.without_apiserver():
            time.sleep(60)  # longer than any request and any pause between attempts
            assert mesh.get(outside, "stranger", url) == "web 8080 /"
        mesh.policy(shop, "STRICT")
        eventually(lambda: mesh.get(outside, "stranger", url) == "refused", what="STRICT at last")
        mesh.await_new_root(before)
