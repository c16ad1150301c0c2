"""A whole Kubernetes cluster for a test: upstream's control plane, and nodes made of namespaces.

    with Cluster() as cluster:
        cluster.apply(manifests)
        cluster.run_pod(namespace="shop", name="web", command=[...], node="node-1")

Everything is real but the kubelet (see `tests.rig.kubelet`) and containers' images. Nothing of
it is reachable from the machine's network, and all of it ends with the test. It needs root, because
only root may make cgroups.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from lightkube.resources.core_v1 import Namespace, Pod
from tests.e2e.harness import PATIENCE_SECONDS, eventually
from tests.rig import cni, controlplane
from tests.rig.any_cluster import AnyCluster
from tests.rig.cgroups import CgroupDriver, CgroupNames
from tests.rig.controlplane import ControlPlane
from tests.rig.dns import ClusterDNS
from tests.rig.node import Node, NodeConfig
from tests.rig.podwork import ADDRESS_ANNOTATION
from tests.rig.volumes import token_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.rig.pods import Container
    from tests.rig.podwork import PodWorker

_CRDS = Path(__file__).parents[2] / "deploy" / "crds"

# Every way of naming cgroups that a node agent meets.
NODES = (
    NodeConfig(number=1, cgroup_names=CgroupNames()),
    NodeConfig(number=2, cgroup_names=CgroupNames(driver=CgroupDriver.CGROUPFS)),
    NodeConfig(number=3, cgroup_names=CgroupNames(runtime="crio"), cgroup_version=1),
)


class Cluster(AnyCluster):
    """A running cluster.

    Args:
        nodes: Its nodes.
    """

    def __init__(self, nodes: tuple[NodeConfig, ...] = NODES) -> None:
        super().__init__()
        self._configs = nodes

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PermissionError("a test cluster makes cgroups: run `sudo make test-cluster`")
        with contextlib.ExitStack() as ends:
            self.directory = Path(tempfile.mkdtemp(prefix="troth-cluster-"))
            ends.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.control_plane = ControlPlane(self.directory)
            # Kubelets' watches end when the control plane has gone.
            joins = ends.enter_context(contextlib.ExitStack())
            ends.enter_context(self.control_plane)
            self.client = self.control_plane.client
            ends.enter_context(
                ClusterDNS(self.client, self.control_plane.machine.netns, controlplane.ADDRESS)
            )
            for file in sorted(_CRDS.glob("*.yaml")):
                self.apply(file.read_text())
            if self._configs:
                cni.bring()
            self.nodes = {}
            for config in self._configs:
                node = ends.enter_context(Node(config, self._configs, self.control_plane))
                joins.callback(node.kubelet.join)
                self.nodes[node.name] = node
            for node in self.nodes.values():
                node.await_ready()
            self._ends = ends.pop_all()
        return self

    def run_pod(
        self, pod: Mapping[str, Any], command: Sequence[str] = (), *, ready: bool = True
    ) -> dict[str, Any]:
        """Make a pod and wait until it is ready.

        Args:
            pod: The object.
            command: Replaces the first container's; its name and image need not be given.
            ready: Whether to wait.

        Returns:
            The object as it is then.
        """
        pod = {"apiVersion": "v1", "kind": "Pod", **pod}
        spec = dict(pod["spec"])
        containers = [dict(container) for container in spec.get("containers", ({},))]
        for container in containers:
            container.setdefault("name", "app")
            container.setdefault("image", "test")
        if command:
            containers[0]["command"] = list(command)
        spec["containers"] = containers
        spec.setdefault("terminationGracePeriodSeconds", 1)
        pod["spec"] = spec
        made: Any = self.client.create(msgspec.convert(pod, Pod))
        namespace, name = made.metadata.namespace, made.metadata.name
        if not ready:
            return self.get(Pod, name, namespace)
        return self.await_ready(namespace, name)

    def await_ready(self, namespace: str, name: str) -> dict[str, Any]:
        """Wait until a pod is ready, and return it."""

        def look() -> dict[str, Any] | None:
            pod = self.get(Pod, name, namespace)
            status = pod.get("status", {})
            assert status.get("phase") != "Failed", status
            conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
            return pod if conditions.get("Ready") == "True" else None

        found = eventually(look, what=f"readiness of pod {namespace}/{name}")
        assert found is not None
        return found

    def worker(self, namespace: str, name: str) -> PodWorker:
        """A pod as it runs on its node."""
        (worker,) = self._workers(namespace, name)
        return worker

    def exec(
        self, namespace: str, name: str, *argv: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod's first container, once it runs, and wait for the command."""
        container = self._running(namespace, name)
        settings: dict[str, Any] = {
            "capture_output": True,
            "text": True,
            "timeout": PATIENCE_SECONDS,
        }
        settings |= {"env": container.environment, **options}
        return subprocess.run(container.exec_command(*argv), check=False, **settings)

    def start(self, namespace: str, name: str, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in a pod's first container, once it runs."""
        container = self._running(namespace, name)
        options = {"env": container.environment, **options}
        return subprocess.Popen(container.exec_command(*argv), **options)

    def logs(self, namespace: str, name: str) -> str:
        """The output of a pod's first container."""
        container, *_ = self.worker(namespace, name).containers.values()
        return container.log.read_text()

    def token(self, namespace: str, name: str) -> str:
        """A token of a pod's service account that is bound to the pod, and so to its node."""
        return token_of(self.client, self.get(Pod, name, namespace))

    def last_words(self) -> str:
        """The ends of all programs' output."""
        proxies = [node.proxy for node in self.nodes.values()]
        return "\n".join(p.last_words() for p in (*self.control_plane.programs, *proxies))

    def _running(self, namespace: str, name: str) -> Container:
        """A pod's first container. A pod has an address, and so endpoints, before that runs."""

        def look() -> Container | None:
            for worker in self._workers(namespace, name):
                for container in tuple(worker.containers.values())[:1]:
                    return container if container.pid else None
            return None

        found = eventually(look, what=f"a running container of pod {namespace}/{name}")
        assert found is not None
        return found

    def _workers(self, namespace: str, name: str) -> list[PodWorker]:
        found = (node.kubelet.worker(namespace, name) for node in self.nodes.values())
        return [worker for worker in found if worker is not None]


def at_address(address: str) -> dict[str, str]:
    """The annotations that ask the test kubelet for an address."""
    return {ADDRESS_ANNOTATION: address}


__all__ = ["NODES", "Cluster", "Namespace", "Pod", "at_address"]
