"""troth on a test cluster: the controller, and the node agent on every node, as real processes.

Each has the rights of an installation and no more.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Namespace, Pod, Secret, Service
from tests.e2e.harness import TROTH, eventually
from tests.rig import cni
from tests.rig.control import Control
from tests.rig.objects import find
from tests.rig.programs import Program

from troth.cluster.contract import AUTHORITY_SECRET, REPORT_ANNOTATION, report_lease
from troth.controller.keyring import ROTATE_ANNOTATION
from troth.mesh.model import CAPTURED_ANNOTATION, MESH_LABEL
from troth.sockets import KEEPALIVE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.any_cluster import AnyCluster
    from tests.rig.harness import Cluster

NAMESPACE = "troth-system"
METRICS_PORT = 9464
_PROGRAMS = Path(__file__).parents[1] / "e2e" / "programs"
LOAD = str(_PROGRAMS / "load.py")
SERVER = str(_PROGRAMS / "hello.py")


class ClusterMesh:
    """troth, running on all nodes of a cluster.

    Args:
        cluster: Where.
        keepalive_seconds: Within what time a vanished peer is noticed.
        with_plugin: Have pods captured by the CNI plugin.
        uncaptured: What agents do about pods that can't be captured.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        keepalive_seconds: int = KEEPALIVE_SECONDS,
        with_plugin: bool = True,
        uncaptured: str = "report",
    ) -> None:
        self.cluster = cluster
        self._uncaptured = uncaptured
        self.with_plugin = with_plugin
        self._keepalive_seconds = keepalive_seconds
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            values = {
                "node": {
                    "cni": {"enabled": self.with_plugin},
                    "startupTaint": self.with_plugin,
                    "uncaptured": self._uncaptured,
                }
            }
            control = self.control = Control(self.cluster, NAMESPACE, values)
            plane = self.cluster.control_plane
            self.controller = Program(
                plane.machine,
                *("env", f"KUBECONFIG={control.inside('troth-controller')}"),
                *(TROTH, "controller", f"--metrics={METRICS_PORT}"),
                log=plane.logs / "troth-controller.log",
            )
            # The next mesh here must not take these agents' reports for its own agents'.
            ends.callback(self.cluster.client.deletecollection, Lease, namespace=NAMESPACE)
            ends.callback(self.controller.terminate)
            self.controller.start()
            self.agents = {name: self.agent(name) for name in self.cluster.nodes}
            # After the agents' end: while they live, they put the plugin back.
            for agent in self.agents.values():
                ends.callback(cni.clear, agent.machine)
            ends.callback(self._end_agents)
            for agent in self.agents.values():
                agent.start()
            for name in self.agents:
                self.await_agent(name)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _end_agents(self) -> None:
        for agent in self.agents.values():
            agent.terminate()

    def agent(
        self,
        node: str,
        *,
        name: str = "",
        account: str = "troth-node",
        run_dir: str = "/run/troth",
        drain_seconds: float = 30.0,
    ) -> Program:
        """A node agent with a service account's rights, still to be started.

        Args:
            node: The node.
            name: Tells it from others on the node.
            account: Whose rights it has.
            run_dir: For its sockets and files.
            drain_seconds: For connections to end when it has handed over.
        """
        name = name or f"{node}-{account}"
        return Program(
            self.cluster.nodes[node].machine,
            *(TROTH, "node", f"--node-name={node}", f"--run-dir={run_dir}"),
            f"--kubeconfig={self.control.inside(account, node)}",
            f"--health-socket={self._health_socket(name)}",
            f"--drain-seconds={drain_seconds}",
            f"--keepalive-seconds={self._keepalive_seconds}",
            f"--metrics={METRICS_PORT}",
            f"--uncaptured={self._uncaptured}",
            # A runtime that can't be asked: the test kubelet has none.
            *(("--startup-taint", "--cni") if self.with_plugin else ()),
            *(("--cri-socket=/run/none.sock",) if node == "node-3" else ()),
            log=self.cluster.control_plane.logs / f"{name}.log",
        )

    def readiness(self, agent: Program) -> tuple[bool, str]:
        """Whether an agent is ready, and what it says."""
        node = agent.machine.name
        probe = (sys.executable, "-m", "troth.probe", self._health_socket(agent.name))
        done = self.cluster.nodes[node].machine.run(*probe, check=False)
        return done.returncode == 0, done.stdout

    def _health_socket(self, name: str) -> str:
        return f"/run/{name}.health"

    def await_agent(self, node: str) -> None:
        """Wait until a node's agent reports that it enforces something."""
        self.agents[node].await_ready(lambda: bool(self.report(node)))

    def report(self, node: str) -> dict[str, Any]:
        """What a node last reported."""
        lease = find(self.cluster.client, Lease, report_lease(node), NAMESPACE)
        text = (lease or {}).get("metadata", {}).get("annotations", {}).get(REPORT_ANNOTATION)
        return json.loads(text) if text else {}

    def metrics(self, node: str = "") -> dict[str, float]:
        """What a node's agent shows Prometheus, or the controller: samples without labels."""
        machine = self.cluster.nodes[node].machine if node else self.cluster.control_plane.machine
        url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
        page = machine.run("curl", "-sS", url, check=False).stdout
        samples = [line.split() for line in page.splitlines() if line and line[0] not in "#{"]
        return {sample[0]: float(sample[1]) for sample in samples if "{" not in sample[0]}

    def last_words(self) -> str:
        """The ends of all programs' output."""
        return "\n".join(p.last_words() for p in (self.controller, *self.agents.values()))

    def namespace(self, name: str, *, in_mesh: bool = True) -> str:
        """Make a namespace that is ready for pods."""
        return self.cluster.namespace(name, {MESH_LABEL: "enabled"} if in_mesh else {})

    def rotate(self) -> None:
        """Have the root replaced."""
        change = {"metadata": {"annotations": {ROTATE_ANNOTATION: "now"}}}
        self.cluster.client.patch(Secret, AUTHORITY_SECRET, change, namespace=NAMESPACE)

    def await_new_root(self, before: str) -> None:
        """Wait until all nodes believe in another root than before, and use no other."""

        def is_everywhere() -> bool:
            reports = [self.report(node) for node in self.agents]
            return all(each and before not in each["roots"] + each["issuers"] for each in reports)

        eventually(is_everywhere, what="the new root on all nodes", seconds=100)

    def label(self, namespace: str, *, in_mesh: bool) -> None:
        """Put a namespace into the mesh, or take it out."""
        value = "enabled" if in_mesh else None
        change = {"metadata": {"labels": {MESH_LABEL: value}}}
        self.cluster.client.patch(Namespace, namespace, change)

    def policy(self, namespace: str, mode: str, name: str = "default") -> None:
        """Apply a policy for a whole namespace."""
        self.cluster.apply(
            {
                "apiVersion": "security.istio.io/v1",
                "kind": "PeerAuthentication",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"mtls": {"mode": mode}},
            }
        )

    def serve(self, namespace: str, name: str, node: str, **metadata: Any) -> dict[str, Any]:
        """Run a server with the pod's name on port 8080, and wait until it is ready."""
        probe = {"httpGet": {"port": 8080}, "failureThreshold": 1}
        container = {**self.server(name), "readinessProbe": probe}
        return self.run(namespace, name, node, container, **metadata)

    def server(self, name: str) -> dict[str, Any]:
        """The container of a server that says its name on port 8080 and echoes on 7000."""
        return {
            "command": [sys.executable, SERVER, name, "http:8080", "echo:7000"],
            "ports": [{"containerPort": 8080}, {"containerPort": 7000}],
        }

    def client(self, namespace: str, name: str, node: str) -> dict[str, Any]:
        """Run a pod that does nothing by itself."""
        return self.run(namespace, name, node, {})

    def run(
        self,
        namespace: str,
        name: str,
        node: str,
        container: dict[str, Any],
        *,
        ready: bool = True,
        **metadata: Any,
    ) -> dict[str, Any]:
        """Run a pod with a service account of its own name, and wait until it is ready."""
        self.cluster.service_account(namespace, name)
        metadata = {"labels": {"app": name}, **metadata, "namespace": namespace, "name": name}
        spec = {"nodeName": node, "serviceAccountName": name, "containers": [container]}
        return self.cluster.run_pod({"metadata": metadata, "spec": spec}, ready=ready)

    def is_ready(self, namespace: str, name: str) -> bool:
        """Whether a pod is ready."""
        conditions = self.cluster.get(Pod, name, namespace)["status"]["conditions"]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def is_running(self, namespace: str, name: str) -> bool:
        """Whether a pod's processes run."""
        return bool(self.cluster.get(Pod, name, namespace)["status"].get("phase") == "Running")

    def service(self, namespace: str, app: str) -> str:
        """Make a service of the pods with the label, on port 80; its virtual IP."""
        return str(self._service(namespace, app, {})["clusterIP"])

    def node_port(self, namespace: str, app: str) -> int:
        """Make such a service that is also on a port of every node; that port."""
        spec = self._service(namespace, f"{app}-port", {"type": "NodePort"}, app)
        return int(spec["ports"][0]["nodePort"])

    def balancer(self, namespace: str, app: str, *, external: str, balancer: str) -> None:
        """Make such a service with an external IP and a load balancer's.

        It is as hard to reach as it can be: both traffic policies are for a node's own pods.
        """
        more = {
            "type": "LoadBalancer",
            "externalIPs": [external],
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Local",
        }
        self._service(namespace, app, more)
        status = {"loadBalancer": {"ingress": [{"ip": balancer, "ipMode": "VIP"}]}}
        self.cluster.client.patch(Service.Status, app, {"status": status}, namespace=namespace)

    def _service(
        self, namespace: str, name: str, more: dict[str, Any], app: str = ""
    ) -> dict[str, Any]:
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"selector": {"app": app or name}, "ports": ports, **more},
            }
        )
        spec: dict[str, Any] = self.cluster.get(Service, name, namespace)["spec"]
        return spec

    def is_captured(self, namespace: str, name: str) -> bool:
        """Whether a pod is marked as captured."""
        pod = self.cluster.get(Pod, name, namespace)
        return bool(pod["metadata"].get("annotations", {}).get(CAPTURED_ANNOTATION) == "true")

    def await_captured(self, namespace: str, *names: str, captured: bool = True) -> None:
        """Wait until pods are marked as captured, or as not."""
        for name in names:
            eventually(
                lambda name=name: self.is_captured(namespace, name) is captured,  # type: ignore[misc]  # bound at once
                what=f"{name}'s mark to be {captured}",
            )

    def redirects(self, namespace: str, name: str) -> bool:
        """Whether a pod's new connections are led to Envoy."""
        return "redirect" in self.tables(namespace, name)

    def tables(self, namespace: str, name: str) -> str:
        """The nftables rules in a pod."""
        sandbox = self.cluster.worker(namespace, name).sandbox
        assert sandbox is not None
        command = ["nsenter", f"--net={sandbox.netns}", "nft", "list", "ruleset"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    @contextlib.contextmanager
    def without_schema(self) -> Iterator[None]:
        """Let the API server store any PeerAuthentication while the block runs."""
        name = "peerauthentications.security.istio.io"
        before = self.cluster.get(CustomResourceDefinition, name)
        loose = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        self._set_schemas(name, [loose for _ in before["spec"]["versions"]])
        try:
            yield
        finally:
            schemas = [v["schema"]["openAPIV3Schema"] for v in before["spec"]["versions"]]
            self._set_schemas(name, schemas)

    def _set_schemas(self, name: str, schemas: list[Any]) -> None:
        change = [
            {
                "op": "replace",
                "path": f"/spec/versions/{index}/schema/openAPIV3Schema",
                "value": schema,
            }
            for index, schema in enumerate(schemas)
        ]
        self.cluster.kubectl("patch", "crd", name, "--type=json", "-p", json.dumps(change))

    def get(self, namespace: str, client: str, url: str) -> str:
        """What a pod gets from a URL; ``refused`` when there is no answer."""
        done = self.cluster.exec(
            namespace, client, *("curl", "-sS", "--max-time", "5", f"http://{url}/")
        )
        return done.stdout if done.returncode == 0 else "refused"

    def load(self, namespace: str, client: str, url: str) -> Load:
        """Have a pod send requests to a URL until the block ends."""
        return Load(self.cluster, namespace, client, url)


class Load:
    """Requests one after another, each by a new connection, and some by one that stays open."""

    def __init__(
        self,
        cluster: AnyCluster,
        namespace: str,
        client: str,
        url: str,
        *,
        program: tuple[str, ...] = (sys.executable, LOAD),
    ) -> None:
        self._what = f"{namespace}/{client} to {url}"
        self._process = cluster.start(
            namespace,
            client,
            *program,
            url,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n", self._what
        return self

    def __exit__(self, *error: object) -> None:
        out, _ = self._process.communicate("")
        self.failed: list[str] = json.loads(out)["failed"]
        self.count: int = json.loads(out)["count"]
        if error == (None, None, None):
            assert self.count > 10, self._what
            assert self.failed == [], f"{self._what}: {self.failed} of {self.count}"
