"""What troth costs a real node: upstream's kubelet, containerd and runc, troth from its image.

How long a pod takes from the moment when the container runtime is told to make its sandbox to its
first instruction, by turns in the mesh and outside of it, and before troth was there at all; and
what agent and Envoy take then. The pods do nothing but say a word.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.e2e.harness import eventually
from tests.rig.nodes import images
from tests.rig.nodes.cluster import RealCluster
from tests.rig.nodes.installation import Installation
from tests.rig.nodes.workloads import pod, strict

from benchmarks.framework import Benchmark, Figure, Run, absolute, middle, percentile, ratio
from benchmarks.rig.process import memory
from troth.mesh.model import MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.nodes.node import RealNode

_NODE = "node-1"
_WORD = "begun"
_QUIET_SECONDS = 5.0
_PROCESSES = {"agent": "troth.agent.cluster", "envoy": "/_bin/envoy"}


def _run(run: Run) -> Iterator[Figure]:
    rounds = (40, 5)
    run.step("starting a cluster")
    with RealCluster(1) as cluster:
        pods = _Pods(cluster)
        cluster.namespace("before")
        pods.start("before")  # the first one finds nothing in any cache
        without = [pods.start("before") for _ in run.rounds(*rounds, "pods without troth")]
        run.step("installing troth")
        with Installation(cluster):
            cluster.namespace("outside")
            cluster.namespace("inside", {MESH_LABEL: "enabled"})
            cluster.apply(strict("inside"))
            pods.start("inside")
            outside, inside = [], []
            for _ in run.rounds(*rounds, "pods outside of the mesh and in it"):
                outside.append(pods.start("outside"))
                inside.append(pods.start("inside"))
            time.sleep(_QUIET_SECONDS)
            node = cluster.nodes[_NODE]
            sizes = {name: _memory(node, word) for name, word in _PROCESSES.items()}
    for name, samples in (
        ("without troth", without),
        ("outside", outside),
        ("in the mesh", inside),
    ):
        yield absolute(f"to the first instruction, {name}", middle(samples), unit="ms")
        yield absolute(f"to the first instruction, {name}, p99", percentile(samples, 99), unit="ms")
    yield ratio("to the first instruction", inside, outside, to="outside of the mesh", unit="ms")
    for name, sample in sizes.items():
        yield absolute(f"{name}, under a real kubelet", middle([sample]), unit="MB PSS")


class _Pods:
    """Pods of one node, one after another."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster
        self._node = cluster.nodes[_NODE]
        self._count = 0

    def start(self, namespace: str) -> float:
        """Run a pod to its end; milliseconds from its sandbox's beginning to its first word."""
        self._count += 1
        name = f"pod-{self._count}"
        saying: dict[str, Any] = {
            "name": "app",
            "image": images.PAUSE,
            "command": ["/busybox", "echo", _WORD],
        }
        self._cluster.apply(pod(namespace, name, saying, nodeName=_NODE, restartPolicy="Never"))
        said = eventually(lambda: self._node.first_word(namespace, name), what="a word")
        begun = re.search(
            rf'time="([^"]+)" level=info msg="RunPodSandbox for name:\\"{name}\\" ',
            self._node.containerd.output(),
        )
        if begun is None:
            raise LookupError(f"containerd doesn't say when it began to make {name}'s sandbox")
        took = datetime.fromisoformat(said) - datetime.fromisoformat(begun[1])
        self._cluster.kubectl("delete", "pod", name, f"--namespace={namespace}")
        return 1000 * took.total_seconds()


def _memory(node: RealNode, word: str) -> float:
    (pid,) = node.processes(word)
    return memory(pid, node.file("/proc")).pss_mb


BENCHMARK = Benchmark(
    about="how long a pod takes to start on a real node, and what agent and Envoy take there",
    run=_run,
    needs_root=True,
)
