"""The test cluster is what it claims to be, so that tests on it mean something."""

from __future__ import annotations

import threading
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lightkube import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.authentication_v1 import SelfSubjectReview
from lightkube.resources.core_v1 import ConfigMap, Pod, Service
from lightkube.resources.core_v1 import Node as NodeResource
from lightkube.resources.discovery_v1 import EndpointSlice
from tests.e2e.harness import PATIENCE_SECONDS, eventually
from tests.rig.harness import Cluster, at_address
from tests.rig.objects import PeerAuthentication
from tests.rig.probes import http_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightkube import Client
    from lightkube.models.authentication_v1 import SelfSubjectReviewStatus

pytestmark = pytest.mark.cluster

NODES = ("node-1", "node-2", "node-3")

# Serves 200 on /, and on /ready as long as /run/ready exists.
SERVER = """
import http.server, os, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path == "/" or os.path.exists("/run" + self.path)
        self.send_response(200 if known else 503)
        self.end_headers()
        self.wfile.write(socket.gethostname().encode())
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
SERVE = ("python3", "-c", SERVER)


CALL_THE_API = """
import json, os, pathlib, ssl, urllib.request
home = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
server = os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
request = urllib.request.Request(
    f"https://{server}/apis/authentication.k8s.io/v1/selfsubjectreviews",
    json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode(),
    {"Authorization": f"Bearer {(home / 'token').read_text()}", "Content-Type": "application/json"},
)
trust = ssl.create_default_context(cafile=home / "ca.crt")
with urllib.request.urlopen(request, context=trust, timeout=5) as reply:
    print(json.load(reply)["status"]["userInfo"]["username"], end="")
"""


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    name = cluster.namespace(f"rig-{uuid.uuid4().hex[:8]}")
    yield name
    cluster.client.deletecollection(Pod, namespace=name)


def pod(namespace: str, name: str, node: str, **spec: Any) -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name, "labels": {"app": name}}
    return {"metadata": metadata, "spec": {"nodeName": node, **spec}}


def forbidden(call: Any) -> bool:
    try:
        call()
    except ApiError as error:
        return error.status.code == HTTPStatus.FORBIDDEN
    return False


def who_am_i(client: Client) -> SelfSubjectReviewStatus:
    review = client.create(SelfSubjectReview(metadata=ObjectMeta()))
    assert review.status is not None
    return review.status


def cgroups_seen(cluster: Cluster, node: str, uid: str) -> dict[str, set[str]]:
    """The pod's cgroups by the network namespaces of its processes, as its node sees them."""
    look = (
        'for p in /proc/[0-9]*; do echo "$(readlink $p/ns/net) $(tr "\\n" " " < $p/cgroup)"; done'
    )
    seen: dict[str, set[str]] = {}
    for line in cluster.nodes[node].run("sh", "-c", look, check=False).stdout.splitlines():
        netns, *groups = line.split() or [""]  # of a process that has ended meanwhile
        for group in groups:
            path = group.split(":", 2)[-1]
            if uid in path.replace("_", "-"):
                seen.setdefault(netns, set()).add(path)
    return seen


def test_three_nodes_are_ready(cluster: Cluster) -> None:
    assert {node.metadata.name for node in cluster.client.list(NodeResource)} == set(NODES)  # type: ignore[union-attr]  # a listed object has metadata
    assert cluster.kubectl("get", "nodes", "--no-headers").count(" Ready ") == len(NODES)


def test_a_user_may_do_nothing_until_a_role_lets_him(cluster: Cluster, namespace: str) -> None:
    with cluster.control_plane.client_of("jane") as jane:

        def look() -> Any:
            return list(jane.list(Pod, namespace=namespace))

        assert forbidden(look)
        cluster.kubectl(
            *("create", "rolebinding", "jane", f"--namespace={namespace}"),
            *("--clusterrole=view", "--user=jane"),
        )
        eventually(lambda: not forbidden(look), what="the role's effect")
        assert forbidden(lambda: jane.delete(Pod, "any", namespace=namespace))


def test_a_kubelet_reads_what_its_pods_mount_and_nothing_else(
    cluster: Cluster, namespace: str
) -> None:
    cluster.run_pod(pod(namespace, "web", "node-1"))
    for node, refused in (("node-1", False), ("node-2", True)):
        user = cluster.control_plane.client_of(f"system:node:{node}", ("system:nodes",))
        with user as kubelet:
            result = forbidden(
                lambda: kubelet.get(ConfigMap, "kube-root-ca.crt", namespace=namespace)
            )
            assert result is refused


def test_a_pods_token_names_its_node(cluster: Cluster, namespace: str) -> None:
    cluster.run_pod(pod(namespace, "web", "node-2"))
    with cluster.control_plane.client_with(cluster.token(namespace, "web")) as client:
        user = who_am_i(client).userInfo
    assert user is not None
    assert user.username == f"system:serviceaccount:{namespace}:default"
    assert user.extra is not None
    assert user.extra["authentication.kubernetes.io/node-name"] == ["node-2"]


def test_a_pod_calls_the_api_server_with_its_own_token(cluster: Cluster, namespace: str) -> None:
    cluster.run_pod(pod(namespace, "web", "node-3"))
    answer = cluster.exec(namespace, "web", "python3", "-c", CALL_THE_API)
    assert answer.stdout == f"system:serviceaccount:{namespace}:default"


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        pytest.param(
            "node-1",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/cri-containerd-",
            id="systemd driver",
        ),
        pytest.param("node-2", "/kubepods/besteffort/pod{uid}/", id="cgroupfs driver"),
        pytest.param(
            "node-3",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/crio-",
            id="systemd driver, CRI-O, cgroup v1 where there is one",
        ),
    ],
)
def test_a_pods_processes_are_in_its_cgroups_and_its_network_namespace(
    cluster: Cluster, namespace: str, node: str, shape: str
) -> None:
    made = cluster.run_pod(pod(namespace, "web", node))
    uid = made["metadata"]["uid"]
    seen = cgroups_seen(cluster, node, uid)
    assert len(seen) == 1
    ((netns, groups),) = seen.items()
    assert netns != cluster.nodes[node].run("readlink", "/proc/self/ns/net").stdout.strip()
    wanted = shape.format(uid=uid, slice=uid.replace("-", "_"))
    assert all(group.startswith(wanted) for group in groups)
    assert len(groups) == 2, "the sandbox's and the container's"


def test_a_node_sees_no_processes_of_another_nodes_pods(cluster: Cluster, namespace: str) -> None:
    made = cluster.run_pod(pod(namespace, "web", "node-1"))
    assert not cgroups_seen(cluster, "node-2", made["metadata"]["uid"])


def test_a_host_network_pod_shares_its_nodes_network(cluster: Cluster, namespace: str) -> None:
    made = cluster.run_pod(pod(namespace, "web", "node-1", hostNetwork=True))
    assert made["status"]["podIP"] == cluster.nodes["node-1"].address
    (netns,) = cgroups_seen(cluster, "node-1", made["metadata"]["uid"])
    assert netns == cluster.nodes["node-1"].run("readlink", "/proc/self/ns/net").stdout.strip()


@pytest.mark.parametrize("node", NODES)
def test_pods_reach_each_other_whatever_their_nodes(
    cluster: Cluster, namespace: str, node: str
) -> None:
    server = cluster.run_pod(pod(namespace, "server", "node-1"), SERVE)
    cluster.run_pod(pod(namespace, "client", node))
    url = f"http://{server['status']['podIP']}:8080"
    assert eventually(lambda: cluster.fetch(namespace, "client", url)) == "server"


def test_nothing_of_it_is_reachable_from_outside(cluster: Cluster, namespace: str) -> None:
    server = cluster.run_pod(pod(namespace, "server", "node-1"), SERVE)
    address = (server["status"]["podIP"], 8080)
    inside = cluster.nodes["node-2"].machine.netns
    eventually(lambda: http_status(inside, address) == HTTPStatus.OK, what="an answer")
    assert http_status(Path("/proc/self/ns/net"), address, seconds=1) != HTTPStatus.OK


def test_endpoint_slices_follow_readiness(cluster: Cluster, namespace: str) -> None:
    ready_path = {"path": "/ready", "port": "http"}
    probe = {"httpGet": ready_path, "failureThreshold": 1, "periodSeconds": 1}
    container = {
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": probe,
    }
    cluster.run_pod(pod(namespace, "web", "node-1", containers=[container]), SERVE, ready=False)
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": namespace, "name": "web"},
            "spec": service,
        }
    )

    def ready() -> list[bool]:
        slices = cluster.client.list(EndpointSlice, namespace=namespace)
        return [
            bool(endpoint.conditions and endpoint.conditions.ready)
            for part in slices
            for endpoint in part.endpoints or ()
        ]

    eventually(lambda: ready() == [False], what="an endpoint that is not ready")
    cluster.exec(namespace, "web", "touch", "/run/ready").check_returncode()
    eventually(lambda: ready() == [True], what="an endpoint that is ready")
    cluster.exec(namespace, "web", "rm", "/run/ready").check_returncode()
    eventually(lambda: ready() == [False], what="an endpoint that is not ready")


def test_a_service_is_reached_by_its_address_and_its_node_port(
    cluster: Cluster, namespace: str
) -> None:
    cluster.run_pod(pod(namespace, "web", "node-1"), SERVE)
    cluster.run_pod(pod(namespace, "client", "node-2"))
    ports = [{"port": 80, "targetPort": 8080}]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": namespace, "name": "web"},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": ports},
        }
    )
    spec = cluster.get(Service, "web", namespace)["spec"]
    url = f"http://{spec['clusterIP']}"
    assert eventually(lambda: cluster.fetch(namespace, "client", url)) == "web"
    assert eventually(lambda: cluster.fetch(namespace, "web", url)) == "web"
    node_3 = cluster.nodes["node-3"]
    address = (node_3.address, spec["ports"][0]["nodePort"])
    plane = cluster.control_plane.machine
    eventually(lambda: http_status(plane.netns, address) == HTTPStatus.OK, what="the node port")


@pytest.mark.parametrize("cluster_ip", [None, "None"], ids=["with an address", "headless"])
def test_a_services_name_leads_to_it_from_its_own_and_other_namespaces(
    cluster: Cluster, namespace: str, cluster_ip: str | None
) -> None:
    cluster.run_pod(pod(namespace, "web", "node-1"), SERVE)
    cluster.run_pod(pod(namespace, "client", "node-2"))
    spec = {"selector": {"app": "web"}, "ports": [{"port": 8080}], "clusterIP": cluster_ip}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": namespace, "name": "web"},
            "spec": spec,
        }
    )
    for host in ("web", f"web.{namespace}", f"web.{namespace}.svc.cluster.local"):
        url = f"http://{host}:8080"
        assert eventually(lambda: cluster.fetch(namespace, "client", url)) == "web"  # noqa: B023 - called at once
    assert cluster.fetch(namespace, "client", "http://web.default:8080") is None


def test_a_deployments_pods_spread_over_the_nodes_and_end_with_it(
    cluster: Cluster, namespace: str
) -> None:
    container = {"name": "app", "image": "test"}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}
    selector = {"matchLabels": {"app": "web"}}
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"namespace": namespace, "name": "web"},
            "spec": {"replicas": 6, "selector": selector, "template": template},
        }
    )
    cluster.kubectl("rollout", "status", "deployment/web", f"-n={namespace}", "--timeout=50s")
    pods: list[Any] = list(cluster.client.list(Pod, namespace=namespace))
    assert {made.spec.nodeName for made in pods} == set(NODES)
    cluster.delete(Deployment, "web", namespace)
    eventually(
        lambda: not list(cluster.client.list(Pod, namespace=namespace)), what="the pods' end"
    )


def test_a_deleted_pods_address_can_be_given_to_another(cluster: Cluster, namespace: str) -> None:
    old = cluster.run_pod(pod(namespace, "old", "node-1"), SERVE)
    address = old["status"]["podIP"]
    cluster.delete(Pod, "old", namespace)
    wanted = pod(namespace, "new", "node-1")
    wanted["metadata"]["annotations"] = at_address(address)
    new = cluster.run_pod(wanted, SERVE)
    assert new["status"]["podIP"] == address
    cluster.run_pod(pod(namespace, "client", "node-2"))
    answer = eventually(lambda: cluster.fetch(namespace, "client", f"http://{address}:8080"))
    assert answer == "new"


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed")])
def test_a_pod_that_has_run_to_its_end_is_over(
    cluster: Cluster, namespace: str, code: int, phase: str
) -> None:
    command = ("sh", "-c", f"exit {code}")
    made = pod(namespace, "job", "node-1", restartPolicy="Never")
    cluster.run_pod(made, command, ready=False)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = cluster.get(Pod, "job", namespace).get("status", {})
        return found

    eventually(lambda: status()["phase"] == phase, what=f"phase {phase}")
    (container,) = status()["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == code


def test_a_container_that_ends_is_started_again(cluster: Cluster, namespace: str) -> None:
    cluster.run_pod(pod(namespace, "web", "node-1"), ("sh", "-c", "sleep 0.3"), ready=False)
    eventually(
        lambda: any(
            status["restartCount"]
            for status in cluster.get(Pod, "web", namespace)["status"].get("containerStatuses", ())
        ),
        what="a restart",
    )


@pytest.mark.parametrize(
    ("context", "may"),
    [
        pytest.param({}, False, id="by default"),
        pytest.param({"capabilities": {"add": ["NET_ADMIN"]}}, True, id="with NET_ADMIN"),
        pytest.param({"privileged": True}, True, id="privileged"),
        pytest.param({"privileged": True, "runAsUser": 65534}, False, id="as a plain user"),
    ],
)
def test_a_container_has_the_capabilities_it_asks_for(
    cluster: Cluster, namespace: str, context: dict[str, Any], *, may: bool
) -> None:
    container = {"securityContext": context}
    cluster.run_pod(pod(namespace, "web", "node-1", containers=[container]))
    done = cluster.exec(namespace, "web", "ip", "link", "set", "lo", "mtu", "1500")
    assert (done.returncode == 0) is may


def test_a_command_waits_for_its_container_to_run(cluster: Cluster, namespace: str) -> None:
    cluster.run_pod(pod(namespace, "web", "node-1"), ready=False)
    assert cluster.exec(namespace, "web", "hostname").stdout == "web\n"


def test_a_watch_tells_what_happens(cluster: Cluster, namespace: str) -> None:
    seen: list[tuple[str, str]] = []

    def watch() -> None:
        for event, policy in cluster.client.watch(
            PeerAuthentication,
            namespace=namespace,
            resource_version=start,
            server_timeout=int(PATIENCE_SECONDS),
        ):
            seen.append((event, policy["spec"]["mtls"]["mode"]))
            if event == "DELETED":
                return

    listing = cluster.client.list(PeerAuthentication, namespace=namespace)
    assert not list(listing)
    start = listing.resourceVersion
    watcher = threading.Thread(target=watch)
    watcher.start()
    for mode in ("STRICT", "PERMISSIVE"):
        cluster.apply(peer_authentication(namespace, {"mtls": {"mode": mode}}))
    cluster.delete(PeerAuthentication, "default", namespace)
    watcher.join(PATIENCE_SECONDS)
    assert seen == [("ADDED", "STRICT"), ("MODIFIED", "PERMISSIVE"), ("DELETED", "PERMISSIVE")]


PORT = {"selector": {"matchLabels": {"app": "web"}}, "portLevelMtls": {"8080": {"mode": "STRICT"}}}


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_good_policy_is_taken_in_both_versions(
    cluster: Cluster, namespace: str, version: str
) -> None:
    policy = peer_authentication(namespace, PORT)
    cluster.apply(policy | {"apiVersion": f"security.istio.io/{version}"})
    assert cluster.get(PeerAuthentication, "default", namespace)["spec"] == PORT


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"mtls": {"mode": "STRIKT"}}, "Unsupported value", id="unknown mode"),
        pytest.param({"mtls": {"mode": 2}}, "expected string", id="numeric mode"),
        pytest.param(
            PORT | {"selector": {}}, "requires a selector with labels", id="ports, no selector"
        ),
        pytest.param(
            PORT | {"portLevelMtls": {"65536": {}}}, "from 1 to 65535", id="port out of range"
        ),
        pytest.param(PORT | {"portLevelMtls": {"http": {}}}, "from 1 to 65535", id="named port"),
        pytest.param(
            {"selector": {"matchLabels": {"": "x"}}}, "must not be empty", id="empty label key"
        ),
        pytest.param(
            {"selector": {"matchLabels": {"a": "*"}}}, "wildcard is not allowed", id="wildcard"
        ),
    ],
)
def test_the_schema_refuses_what_istios_refuses(
    cluster: Cluster, namespace: str, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(ApiError, match=words):
        cluster.apply(peer_authentication(namespace, spec))


def test_pods_outlive_an_api_server_that_is_down(cluster: Cluster, namespace: str) -> None:
    server = cluster.run_pod(pod(namespace, "server", "node-1"), SERVE)
    cluster.run_pod(pod(namespace, "client", "node-2"))
    url = f"http://{server['status']['podIP']}:8080"
    with cluster.control_plane.without_apiserver():
        assert eventually(lambda: cluster.fetch(namespace, "client", url)) == "server"
        assert not cluster.kubectl("get", "pods", "--request-timeout=1s", check=False)
    cluster.run_pod(pod(namespace, "another", "node-3"))


def peer_authentication(namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"namespace": namespace, "name": "default"},
        "spec": spec,
    }
