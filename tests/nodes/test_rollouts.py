"""No request fails while the pods of a STRICT app, its nodes and their agents are replaced."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from lightkube.resources.core_v1 import Pod
from tests.e2e.harness import eventually
from tests.rig.mesh import Load
from tests.rig.nodes.cluster import LOAD
from tests.rig.nodes.installation import names_of_agents
from tests.rig.nodes.workloads import container, service, spread, strict, template, workload

from troth.mesh.model import MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.nodes.cluster import RealCluster
    from tests.rig.nodes.installation import Installation

pytestmark = pytest.mark.timeout(600)

SHOP = "market"
NODES = ("node-1", "node-2")

# As an app does that wants no request to fail: nobody is sent to it any more when it ends.
SERVER = container(
    *("python3", "/app/hello.py", "web", "http:8080"),
    readinessProbe={"httpGet": {"port": 8080}, "periodSeconds": 1},
    lifecycle={"preStop": {"sleep": {"seconds": 4}}},
)
SPREAD = spread("web", always=False)
WEB = template("web", SERVER, topologySpreadConstraints=[SPREAD], terminationGracePeriodSeconds=6)
BUDGET = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"namespace": SHOP, "name": "web"},
    "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
}


@pytest.fixture(scope="module")
def market(cluster: RealCluster, troth: Installation) -> Iterator[RealCluster]:  # noqa: ARG001 - it runs
    """A STRICT app of two pods, and a client of it on each node."""
    cluster.namespace(SHOP, {MESH_LABEL: "enabled"})
    cluster.apply(strict(SHOP))
    cluster.apply(workload("Deployment", SHOP, "web", WEB, replicas=2))
    cluster.apply(service(SHOP, "web"))
    cluster.apply(BUDGET)
    for node in NODES:
        cluster.run(SHOP, f"client-{node}", nodes=[node])
    cluster.await_available(SHOP)
    yield cluster
    cluster.kubectl("delete", "namespace", SHOP, "--wait=false")


def load(cluster: RealCluster, *nodes: str) -> ExitStack:
    """Requests from a client on each of the nodes, none of which may fail."""
    loads = ExitStack()
    for node in nodes or NODES:
        client = cluster.pod(SHOP, f"client-{node}")
        loads.enter_context(Load(cluster, SHOP, client, f"web.{SHOP}:8080", program=LOAD))
    return loads


def rolled_out(cluster: RealCluster) -> None:
    cluster.kubectl(
        *("rollout", "status", "deployment/web", f"--namespace={SHOP}", "--timeout=110s")
    )


def pods(cluster: RealCluster) -> dict[str, str]:
    """The app's pods that are there to stay, and the nodes they are on."""
    label: dict[str, Any] = {"app": "web"}
    return {
        str(pod.metadata.name): str(pod.spec.nodeName)
        for pod in cluster.client.list(Pod, namespace=SHOP, labels=label)
        if pod.metadata and pod.spec and pod.metadata.deletionTimestamp is None
    }


def test_no_request_fails_when_the_app_is_rolled_out_anew(market: RealCluster) -> None:
    before = pods(market)
    with load(market):
        market.kubectl("rollout", "restart", "deployment/web", f"--namespace={SHOP}")
        rolled_out(market)
        eventually(lambda: gone(market, *before), what="the end of the old pods")


def test_no_request_fails_when_a_pod_is_evicted(market: RealCluster) -> None:
    name, *_ = pods(market)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    with load(market):
        market.kubectl(
            *("create", f"--raw=/api/v1/namespaces/{SHOP}/pods/{name}/eviction", "--filename=-"),
            input=json.dumps(eviction),
        )
        eventually(lambda: gone(market, name), what="the end of the pod")
        rolled_out(market)


def test_no_request_fails_when_agents_are_rolled_out_anew(
    market: RealCluster, troth: Installation
) -> None:
    with load(market):
        troth.restart_agents()
        troth.await_rollout()


def test_no_request_fails_when_agents_are_deleted(market: RealCluster, troth: Installation) -> None:
    before = names_of_agents(market)
    with load(market):
        troth.delete_agents()
        eventually(lambda: len(names_of_agents(market) - before) == len(NODES), what="new agents")
        troth.await_rollout()


def test_no_request_fails_when_a_node_is_drained_and_comes_back(market: RealCluster) -> None:
    with load(market, "node-1"):
        market.kubectl(
            *("drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--force"),
            "--timeout=110s",
        )
        rolled_out(market)
        assert set(pods(market).values()) == {"node-1"}
        market.kubectl("uncordon", "node-2")
        market.kubectl("rollout", "restart", "deployment/web", f"--namespace={SHOP}")
        rolled_out(market)
    assert "node-2" in pods(market).values()


def gone(cluster: RealCluster, *names: str) -> bool:
    """Whether pods have ended."""
    there = cluster.client.list(Pod, namespace=SHOP)
    return not {str(pod.metadata.name) for pod in there if pod.metadata} & {*names}
