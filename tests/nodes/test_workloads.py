"""Workloads of every kind on real nodes, under STRICT, with the CNI plugin."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from lightkube.resources.core_v1 import Pod, Service
from tests.e2e.harness import eventually
from tests.rig.nodes.workloads import (
    container,
    job,
    pod,
    service,
    spread,
    strict,
    template,
    workload,
)
from tests.rig.objects import find
from tests.rig.person import Person

from troth.mesh.model import MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.nodes.cluster import RealCluster
    from tests.rig.nodes.installation import Installation

pytestmark = pytest.mark.timeout(600)  # the first one waits for all of them

SHOP = "shop"
NODES = ("node-1", "node-2")
OPEN = 8082
"""The port of some servers that takes plaintext, too."""

SERVER = ("python3", "/app/hello.py", "web", "http:8080", "http:8081", f"http:{OPEN}")
HOST_SERVER = ("python3", "/app/hello.py", "host", "http:9090")

# What a pod does that needs the network at once: it asks until it gets an answer.
ASK = """
import sys, time, urllib.request
end = time.monotonic() + 60
while True:
    try:
        with urllib.request.urlopen("http://web.shop:8080/", timeout=5) as reply:
            sys.stdout.write(reply.read().decode())
            break
    except OSError:
        if time.monotonic() > end:
            raise
        time.sleep(0.1)
"""

# The health service of gRPC, whose answer is the message {status: SERVING}.
GRPC_SERVER = """
import concurrent.futures, grpc
class Health(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\\x08\\x01")
server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), [Health()])
server.add_insecure_port("[::]:9090")
server.start()
server.wait_for_termination()
"""


ASKING = {"backoffLimit": 0, "template": template("ask", container("python3", "-c", ASK))}
ASKING["template"]["spec"]["restartPolicy"] = "Never"  # type: ignore[index]  # a template

PATIENT = {"periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 60}
"""Of a probe that a busy machine doesn't fail, and that is failed for good by what refuses it."""

PROBED = container(
    *SERVER,
    ports=[{"name": "http", "containerPort": 8080}],
    startupProbe={"httpGet": {"port": "http"}, **PATIENT},
    livenessProbe={"httpGet": {"port": "http"}, **PATIENT, "failureThreshold": 3},
    readinessProbe={"tcpSocket": {"port": 8081}, "periodSeconds": 2},
)
GRPC = {
    "name": "grpc",
    "image": "troth:0.1.0",
    "command": ["python", "-c", GRPC_SERVER],
    "startupProbe": {"grpc": {"port": 9090}, **PATIENT},
    "livenessProbe": {"grpc": {"port": 9090}, **PATIENT, "failureThreshold": 3},
    "readinessProbe": {"exec": {"command": ["true"]}},
}

SIDECAR = container("python3", "/app/hello.py", "sidecar", "http:8085", name="sidecar")
LATE = template(
    "late",
    container(*SERVER),
    initContainers=[
        {**SIDECAR, "restartPolicy": "Always"},
        container("python3", "-c", ASK, name="ask"),
    ],
)
# With externalTrafficPolicy: Local a node without a pod drops what comes to its port.
WEB = template("web", PROBED, GRPC, topologySpreadConstraints=[spread("web")])
ON_EACH_NODE = template("db", PROBED, topologySpreadConstraints=[spread("db")])
ON_NODE = template(
    "host", container(*HOST_SERVER), hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"
)
WITH_PORTS = template(
    "port",
    container(
        *SERVER,
        ports=[{"containerPort": port, "hostPort": 10_000 + port} for port in (8080, OPEN)],
    ),
)

WORKLOADS = (
    workload("Deployment", SHOP, "web", WEB, replicas=2),
    service(
        *(SHOP, "web", 8080, OPEN),
        type="NodePort",
        externalTrafficPolicy="Local",
        ipFamilyPolicy="RequireDualStack",
    ),
    workload("StatefulSet", SHOP, "db", ON_EACH_NODE, replicas=2, serviceName="db"),
    service(SHOP, "db", clusterIP="None"),
    workload("DaemonSet", SHOP, "each", template("each", PROBED)),
    service(SHOP, "each", 8080, OPEN, internalTrafficPolicy="Local", type="NodePort"),
    workload("Deployment", SHOP, "late", LATE),
    service(SHOP, "late"),
    job("Job", SHOP, "once", **ASKING),
    job("CronJob", SHOP, "often", schedule="* * * * *", jobTemplate={"spec": ASKING}),
    workload("Deployment", SHOP, "port", WITH_PORTS),
    workload("Deployment", SHOP, "frail", template("frail", container(*SERVER))),
    service(SHOP, "frail"),
    workload("Deployment", SHOP, "friend", template("friend", container("sleep", "infinity"))),
    workload("Deployment", SHOP, "host", ON_NODE),
    service(SHOP, "host", 9090),
    strict(SHOP),
    *(
        strict(
            SHOP,
            f"{app}-open",
            selector={"matchLabels": {"app": app}},
            portLevelMtls={OPEN: {"mode": "PERMISSIVE"}},
        )
        for app in ("web", "each", "port")
    ),
)


@pytest.fixture(scope="module")
def shop(cluster: RealCluster, troth: Installation) -> Iterator[RealCluster]:  # noqa: ARG001 - it runs
    """A cluster with all of them in a namespace of the mesh under STRICT."""
    cluster.namespace("shop", {MESH_LABEL: "enabled"})
    cluster.namespace("legacy")
    for each in WORKLOADS:
        cluster.apply(each)
    cluster.run("legacy", "stranger", nodes=("node-1",))
    cluster.await_available("shop")
    cluster.await_available("legacy")
    for name in ("statefulset/db", "daemonset/each"):
        cluster.kubectl("rollout", "status", name, "--namespace=shop", "--timeout=110s")
    cluster.kubectl("wait", *CAPTURED)
    cluster.kubectl(
        *("wait", "peerauthentication/strict", "--namespace=shop", "--for=condition=Enforced")
    )
    yield cluster
    cluster.kubectl("delete", "namespace", "shop", "legacy", "--wait=false")


READY = ("--for=condition=Ready", "--timeout=110s")
CAPTURED = (
    *("pods", "--namespace=shop", "--selector=app in (web, db, each, late, port, frail, friend)"),
    r"--for=jsonpath={.metadata.annotations.troth\.dev/captured}=true",
    "--timeout=110s",
)


def hears(cluster: RealCluster, namespace: str, app: str, url: str) -> str | None:
    """What a pod gets from a URL."""
    return cluster.fetch(namespace, cluster.pod(namespace, app), f"http://{url}/")


def outside_hears(cluster: RealCluster, url: str) -> str | None:
    """What a machine outside of the cluster gets from a URL.

    A pod is no client for another node's port: kube-proxy may lead it back to its own node, and the
    answer then comes from an address that it hasn't asked.
    """
    asking = ("curl", "-sS", "--max-time", "5", f"http://{url}/")
    done = cluster.control_plane.machine.run(*asking, check=False)
    return done.stdout if done.returncode == 0 else None


@pytest.mark.parametrize(
    "host", ["web.shop", "db.shop", "db-0.db.shop", "each.shop", "late.shop"], ids=str
)
def test_a_workload_answers_the_mesh_and_nobody_else(shop: RealCluster, host: str) -> None:
    assert hears(shop, "shop", "friend", f"{host}:8080") == "web 8080 /"
    assert hears(shop, "legacy", "stranger", f"{host}:8080") is None


def test_both_families_of_addresses_are_in_the_mesh(shop: RealCluster) -> None:
    _, cluster_ip = shop.get(Service, "web", SHOP)["spec"]["clusterIPs"]
    pods: Any = shop.client.list(Pod, namespace=SHOP, labels={"app": "web"})
    own = [pod.status.podIPs[1].ip for pod in pods]
    for address in (cluster_ip, *own):
        assert hears(shop, "shop", "friend", f"[{address}]:8080") == "web 8080 /"
        assert hears(shop, "legacy", "stranger", f"[{address}]:8080") is None
        assert hears(shop, "legacy", "stranger", f"[{address}]:{OPEN}") == f"web {OPEN} /"


@pytest.mark.parametrize("name", ["web", "each"], ids=["Local", "Cluster"])
def test_a_port_of_the_node_leads_strangers_only_to_what_is_open(
    shop: RealCluster, name: str
) -> None:
    ports = shop.get(Service, name, SHOP)["spec"]["ports"]
    closed, opened = (port["nodePort"] for port in ports)
    for node in shop.nodes.values():
        assert outside_hears(shop, f"{node.address}:{closed}") is None
        assert outside_hears(shop, f"{node.address}:{opened}") == f"web {OPEN} /"


def test_a_host_port_leads_strangers_only_to_what_is_open(shop: RealCluster) -> None:
    pod = shop.get(Pod, shop.pod(SHOP, "port"), SHOP)
    node = pod["status"]["hostIP"]
    assert hears(shop, "legacy", "stranger", f"{node}:{10_000 + OPEN}") == f"web {OPEN} /"
    assert hears(shop, "legacy", "stranger", f"{node}:18080") is None


def test_a_pod_in_the_network_of_its_node_is_a_stranger(shop: RealCluster) -> None:
    node = shop.get(Pod, shop.pod(SHOP, "host"), SHOP)["spec"]["nodeName"]
    pods: Any = shop.client.list(Pod, namespace=SHOP, labels={"app": "db"})
    (server,) = [pod for pod in pods if pod.spec.nodeName != node]
    assert hears(shop, "shop", "host", f"web.shop:{OPEN}") == f"web {OPEN} /"
    assert hears(shop, "shop", "host", f"{server.status.podIP}:8080") is None
    reason = f"is node {node}, whose own processes and host-network pods are outside the mesh"
    said = Person(shop).type("kubectl troth why -n shop").splitlines()
    why = [after for line, after in itertools.pairwise(said) if "→ shop/db:8080" in line]
    assert [line for line in why if reason in line], why


def test_a_pod_in_the_network_of_its_node_serves_everybody(shop: RealCluster) -> None:
    assert hears(shop, "shop", "friend", "host.shop:9090") == "host 9090 /"
    assert hears(shop, "legacy", "stranger", "host.shop:9090") == "host 9090 /"


def test_a_pod_whose_container_is_restarted_stays_in_the_mesh(shop: RealCluster) -> None:
    name = shop.pod(SHOP, "frail")
    pod = shop.get(Pod, name, SHOP)
    (state,) = pod["status"]["containerStatuses"]
    container_id = state["containerID"].removeprefix("containerd://")
    shop.nodes[pod["spec"]["nodeName"]].ctr("tasks", "kill", "--signal=SIGKILL", container_id)

    def runs_again() -> bool:
        (now,) = shop.get(Pod, name, SHOP)["status"]["containerStatuses"]
        return bool(now["restartCount"] == 1 and now["ready"])

    eventually(runs_again, what="the container to be restarted")
    assert hears(shop, "shop", "friend", "frail.shop:8080") == "web 8080 /"
    assert hears(shop, "legacy", "stranger", "frail.shop:8080") is None


def test_a_static_pod_has_no_identity_and_is_a_stranger(shop: RealCluster) -> None:
    node = shop.nodes["node-2"]
    name = f"still-{node.name}"
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    with node.static_pod(pod(SHOP, "still", container(*SERVER, readinessProbe=probe))):
        eventually(lambda: find(shop.client, Pod, name, SHOP), what="the static pod")
        shop.kubectl("wait", f"pod/{name}", "--namespace=shop", *READY)
        address = shop.get(Pod, name, SHOP)["status"]["podIP"]
        assert hears(shop, "shop", "friend", f"{address}:8080") == "web 8080 /"
        assert hears(shop, "legacy", "stranger", f"{address}:8080") == "web 8080 /"
        assert hears(shop, "shop", "still", "web.shop:8080") is None
    shop.await_gone(Pod, name, SHOP)


def test_no_probe_has_failed_so_often_that_a_container_was_restarted(shop: RealCluster) -> None:
    pods = json.loads(
        shop.kubectl(
            *("get", "pods", "--namespace=shop", "--selector=app in (web, db, each)"),
            "--output=json",
        )
    )
    restarts = [
        each["restartCount"] for pod in pods["items"] for each in pod["status"]["containerStatuses"]
    ]
    assert restarts
    assert not any(restarts)


def test_jobs_that_need_the_network_complete(shop: RealCluster) -> None:
    def finished() -> set[str]:
        jobs = json.loads(shop.kubectl("get", "jobs", "--namespace=shop", "--output=json"))
        assert not [job for job in jobs["items"] if job["status"].get("failed")]
        done = [job for job in jobs["items"] if job["status"].get("succeeded")]
        return {job["metadata"]["name"].partition("-")[0] for job in done}

    eventually(lambda: finished() == {"once", "often"}, what="the jobs")
    assert shop.kubectl("logs", "job/once", "--namespace=shop") == "web 8080 /"
    Person(shop).type("kubectl troth status")
