"""Workloads of every kind on real nodes, under STRICT, with the CNI plugin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.rig.nodes import images
from tests.rig.person import Person

from troth.mesh.model import MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.nodes.cluster import RealCluster
    from tests.rig.nodes.installation import Installation

pytestmark = pytest.mark.timeout(600)  # the first one waits for all of them

NODES = ("node-1", "node-2")

SERVER = ("python3", "/app/hello.py", "web", "http:8080", "http:8081")

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


def container(*command: str, **more: Any) -> dict[str, Any]:
    return {"name": "app", "image": images.APP, "command": [*command], **more}


def template(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    spec = {"terminationGracePeriodSeconds": 1, "containers": [*containers], **spec}
    return {"metadata": {"labels": {"app": name}}, "spec": spec}


def workload(kind: str, name: str, pods: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": pods, **spec},
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"selector": {"app": name}, "ports": [{"port": 8080}], **spec}
    metadata = {"namespace": "shop", "name": name}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def job(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": name}
    return {"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": spec}


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

WORKLOADS = (
    workload("Deployment", "web", template("web", PROBED, GRPC), replicas=2),
    service("web", type="NodePort", externalTrafficPolicy="Local"),
    workload("StatefulSet", "db", template("db", PROBED), replicas=2, serviceName="db"),
    service("db", clusterIP="None"),
    workload("DaemonSet", "each", template("each", PROBED)),
    service("each", internalTrafficPolicy="Local", type="NodePort"),
    workload(
        "Deployment",
        "late",
        template(
            "late",
            container(*SERVER),
            initContainers=[
                {
                    **container("python3", "/app/hello.py", "sidecar", "http:8085"),
                    "name": "sidecar",
                    "restartPolicy": "Always",
                },
                {**container("python3", "-c", ASK), "name": "ask"},
            ],
        ),
    ),
    service("late"),
    job("Job", "once", **ASKING),
    job("CronJob", "often", schedule="0 0 1 1 *", jobTemplate={"spec": ASKING}),
    workload("Deployment", "friend", template("friend", container("sleep", "infinity"))),
    workload(
        "Deployment", "host", template("host", container("sleep", "infinity"), hostNetwork=True)
    ),
)


@pytest.fixture(scope="module")
def shop(cluster: RealCluster, troth: Installation) -> Iterator[RealCluster]:  # noqa: ARG001 - it runs
    """A cluster with all of them in a namespace of the mesh under STRICT."""
    cluster.namespace("shop", {MESH_LABEL: "enabled"})
    cluster.namespace("legacy")
    cluster.apply(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"namespace": "shop", "name": "strict"},
            "spec": {"mtls": {"mode": "STRICT"}},
        }
    )
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


CAPTURED = (
    *("pods", "--namespace=shop", "--selector=app in (web, db, each, late, friend)"),
    r"--for=jsonpath={.metadata.annotations.troth\.dev/captured}=true",
    "--timeout=110s",
)


def hears(cluster: RealCluster, namespace: str, app: str, url: str) -> str | None:
    """What a pod gets from a URL."""
    return cluster.fetch(namespace, cluster.pod(namespace, app), f"http://{url}/")


@pytest.mark.parametrize(
    "host", ["web.shop", "db.shop", "db-0.db.shop", "each.shop", "late.shop"], ids=str
)
def test_a_workload_answers_the_mesh_and_nobody_else(shop: RealCluster, host: str) -> None:
    assert hears(shop, "shop", "friend", f"{host}:8080") == "web 8080 /"
    assert hears(shop, "legacy", "stranger", f"{host}:8080") is None


@pytest.mark.parametrize("name", ["web", "each"])
def test_a_port_of_the_node_leads_no_stranger_in(shop: RealCluster, name: str) -> None:
    found = json.loads(shop.kubectl("get", "service", name, "--namespace=shop", "--output=json"))
    port = found["spec"]["ports"][0]["nodePort"]
    for node in shop.nodes.values():
        assert hears(shop, "legacy", "stranger", f"{node.address}:{port}") is None


def test_a_pod_in_the_network_of_its_node_is_a_stranger(shop: RealCluster) -> None:
    assert hears(shop, "shop", "host", "web.shop:8080") is None


def test_jobs_that_need_the_network_complete(shop: RealCluster) -> None:
    shop.kubectl("create", "job", "now", "--namespace=shop", "--from=cronjob/often")
    for name in ("job/once", "job/now"):
        shop.kubectl("wait", name, "--namespace=shop", "--for=condition=Complete", "--timeout=110s")
        assert shop.kubectl("logs", name, "--namespace=shop") == "web 8080 /"
    Person(shop).type("kubectl troth status")


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
