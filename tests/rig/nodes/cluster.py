"""A whole Kubernetes cluster of real nodes, on which troth is installed as anywhere else.

Nothing of it is reachable from the machine's network, and all of it ends with the test. It needs
root, because only root may make cgroups, and cgroup hierarchies of version 1.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lightkube.resources.core_v1 import Pod
from tests.rig import controlplane, programs
from tests.rig.any_cluster import AnyCluster
from tests.rig.controlplane import ControlPlane
from tests.rig.dns import ClusterDNS
from tests.rig.machine import remove_groups
from tests.rig.nodes.node import RealNode, Software
from tests.rig.nodes.workloads import container, spread, template, workload

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

LOAD = ("python3", "/app/load.py")
"""The command that a pod of the app's image sends requests by."""

_PREFIX = "troth-nodes-"
_LOCK = "lock"
_GROUPS = ".cgroups"


class RealCluster(AnyCluster):
    """A running cluster.

    Args:
        count: How many nodes it has: ``node-1`` and so on.
    """

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self._count = count

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PermissionError("real nodes need cgroups: run `sudo make test-nodes`")
        with contextlib.ExitStack() as ends:
            _sweep()
            self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=programs.MEMORY))
            ends.callback(shutil.rmtree, self.directory, ignore_errors=True)
            # Whoever finds it unlocked knows that nobody uses it any more.
            lock = ends.enter_context((self.directory / _LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            software = Software.find(self.directory)
            self.control_plane = ends.enter_context(ControlPlane(self.directory, real_nodes=True))
            self.client = self.control_plane.client
            ends.enter_context(
                ClusterDNS(self.client, self.control_plane.machine.netns, controlplane.ADDRESS)
            )
            self.nodes = {}
            for number in range(1, self._count + 1):
                node = RealNode(number, self._count, self.control_plane, software)
                self.nodes[node.name] = node
                groups = "".join(f"{root}\n" for root in node.machine.cgroups.roots)
                (self.directory / f"{node.name}{_GROUPS}").write_text(groups)
                ends.enter_context(node)
            for node in self.nodes.values():
                node.await_ready()
            self._ends = ends.pop_all()
        return self

    def run(
        self, namespace: str, name: str, command: Sequence[str] = (), *, nodes: Sequence[str]
    ) -> None:
        """Run a Deployment of the app's image, with one pod on each of the nodes.

        Args:
            namespace: Where.
            name: Its name, the value of its pods' label ``app``, and that of their service account.
            command: A server on port 8080; without one the pods do nothing.
            nodes: The nodes' names.
        """
        probe = {"httpGet": {"port": 8080}, "periodSeconds": 2}
        serving = {"readinessProbe": probe} if command else {}
        names = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [*nodes]}]
        required = {"nodeSelectorTerms": [{"matchExpressions": names}]}
        pods = template(
            name,
            container(*(command or ("sleep", "infinity")), **serving),
            serviceAccountName=name,
            topologySpreadConstraints=[spread(name)],
            affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        )
        self.service_account(namespace, name)
        self.apply(workload("Deployment", namespace, name, pods, replicas=len(nodes)))

    def await_available(self, namespace: str) -> None:
        """Wait until all Deployments of a namespace are available."""
        self.kubectl(
            *("wait", "deployments", "--all", f"--namespace={namespace}"),
            *("--for=condition=Available", "--timeout=110s"),
        )

    def pod(self, namespace: str, app: str) -> str:
        """The name of the only pod with the label."""
        label: dict[str, Any] = {"app": app}
        (pod,) = self.client.list(Pod, namespace=namespace, labels=label)
        assert pod.metadata is not None
        return str(pod.metadata.name)

    def start(self, namespace: str, name: str, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in a pod's first container; its input is the process's."""
        return self.control_plane.machine.start(*self._exec(namespace, name, *argv), **options)

    def exec(
        self, namespace: str, name: str, *argv: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod's first container, and wait for it."""
        command = self._exec(namespace, name, *argv)
        return self.control_plane.machine.run(*command, check=False, **options)

    def last_words(self) -> str:
        """The ends of all programs' output."""
        said = (program.last_words() for program in self.control_plane.programs)
        return "\n".join([*said, *(node.last_words() for node in self.nodes.values())])

    def describe(self) -> str:
        """What `kubectl` says of pods and events, and what troth's pods said last."""
        told = [
            ("get", "pods", "-A", "-o", "wide"),
            ("get", "events", "-A", "--sort-by=.metadata.creationTimestamp"),
            ("logs", "--namespace=troth-system", "--selector=app.kubernetes.io/name=troth"),
            (
                *("logs", "--previous", "--namespace=troth-system"),
                "--selector=app.kubernetes.io/name=troth",
            ),
        ]
        return "\n".join(self.kubectl(*each, check=False) for each in told)

    def _exec(self, namespace: str, pod: str, *argv: str) -> Iterator[str]:
        yield str(self.control_plane.binaries / "kubectl")
        yield f"--kubeconfig={self.control_plane.kubeconfig()}"
        yield from ("exec", f"--namespace={namespace}", "--stdin", pod, "--", *argv)


def _sweep() -> None:
    """Remove what clusters left whose test was killed; their processes have ended with it."""
    for directory in Path(programs.MEMORY or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        groups = list(directory.glob(f"*{_GROUPS}"))
        if not groups:
            continue
        with (directory / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for file in groups:
                for root in file.read_text().split():
                    remove_groups(Path(root))
            shutil.rmtree(directory, ignore_errors=True)
