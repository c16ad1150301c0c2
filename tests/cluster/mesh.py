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

from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Namespace, Pod
from tests.cluster.control import Control
from tests.cluster.objects import find
from tests.cluster.programs import Program
from tests.e2e.harness import TROTH, eventually

from troth._contract import REPORT_ANNOTATION, report_lease
from troth.mesh import CAPTURED_ANNOTATION, MESH_LABEL

if TYPE_CHECKING:
    from tests.cluster.harness import Cluster
    from tests.cluster.node import Node

NAMESPACE = "troth-system"
_PROGRAMS = Path(__file__).parents[1] / "e2e" / "programs"
LOAD = str(_PROGRAMS / "load.py")
SERVER = str(_PROGRAMS / "hello.py")

_RBAC = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: troth-node}
rules:
  - apiGroups: [""]
    resources: [namespaces, pods, services, nodes]
    verbs: [list, watch]
  - {apiGroups: [""], resources: [nodes], verbs: [get]}
  - {apiGroups: [""], resources: [pods], verbs: [patch]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
  - {apiGroups: [networking.k8s.io], resources: [servicecidrs], verbs: [list]}
  - {apiGroups: [security.istio.io], resources: [peerauthentications], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: troth-node}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: troth-node}
subjects: [{kind: ServiceAccount, namespace: troth-system, name: troth-node}]
"""


class ClusterMesh:
    """troth, running on all nodes of a cluster.

    Args:
        cluster: Where.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as ends:
            control = Control(self.cluster, NAMESPACE)
            self.cluster.apply(_RBAC)
            plane = self.cluster.control_plane
            self.controller = Program(
                plane.machine,
                *("env", f"KUBECONFIG={control.inside('troth-controller')}"),
                *(TROTH, "controller"),
                log=plane.logs / "troth-controller.log",
            )
            ends.callback(self.controller.terminate)
            self.controller.start()
            self.agents = {
                name: self._agent(node, control) for name, node in self.cluster.nodes.items()
            }
            for agent in self.agents.values():
                ends.callback(agent.terminate)
                agent.start()
            for name in self.agents:
                self.await_agent(name)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _agent(self, node: Node, control: Control) -> Program:
        return Program(
            node.machine,
            *(TROTH, "node", f"--node-name={node.name}"),
            f"--kubeconfig={control.inside('troth-node', node.name)}",
            log=self.cluster.control_plane.logs / f"{node.name}-troth.log",
        )

    def await_agent(self, node: str) -> None:
        """Wait until a node's agent reports that it enforces something."""
        self.agents[node].await_ready(lambda: bool(self.report(node)))

    def report(self, node: str) -> dict[str, Any]:
        """What a node last reported."""
        lease = find(self.cluster.client, Lease, report_lease(node), NAMESPACE)
        text = (lease or {}).get("metadata", {}).get("annotations", {}).get(REPORT_ANNOTATION)
        return json.loads(text) if text else {}

    def last_words(self) -> str:
        """The ends of all programs' output."""
        return "\n".join(p.last_words() for p in (self.controller, *self.agents.values()))

    def namespace(self, name: str, *, in_mesh: bool = True) -> str:
        """Make a namespace that is ready for pods."""
        return self.cluster.namespace(name, {MESH_LABEL: "enabled"} if in_mesh else {})

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
        container = {
            "command": [sys.executable, SERVER, name, "http:8080", "echo:7000"],
            "ports": [{"containerPort": 8080}, {"containerPort": 7000}],
            "readinessProbe": probe,
        }
        return self.run(namespace, name, node, container, **metadata)

    def client(self, namespace: str, name: str, node: str) -> dict[str, Any]:
        """Run a pod that does nothing by itself."""
        return self.run(namespace, name, node, {})

    def run(
        self, namespace: str, name: str, node: str, container: dict[str, Any], **metadata: Any
    ) -> dict[str, Any]:
        """Run a pod with a service account of its own name, and wait until it is ready."""
        self.cluster.service_account(namespace, name)
        labels = {"app": name}
        return self.cluster.run_pod(
            {
                "metadata": {"namespace": namespace, "name": name, "labels": labels, **metadata},
                "spec": {"nodeName": node, "serviceAccountName": name, "containers": [container]},
            }
        )

    def service(self, namespace: str, name: str, app: str = "") -> str:
        """Make a service of the pods with the label; its virtual IP."""
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {
                    "selector": {"app": app or name},
                    "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
                },
            }
        )
        found = self.cluster.kubectl(
            "get", "service", "-n", namespace, name, "-o", "jsonpath={.spec.clusterIP}"
        )
        return str(found)

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

    def __init__(self, cluster: Cluster, namespace: str, client: str, url: str) -> None:
        self._what = f"{namespace}/{client} to {url}"
        self._process = cluster.start(
            namespace,
            client,
            *(sys.executable, LOAD, url),
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
