"""How much later a pod starts for the CNI plugin, which has it wait for its capture.

From the runtime's call of the plugins (ADD) to the pod's first instruction, on the simulated
kubelet, whose sandboxes and containers are quicker than real ones: so what the plugin takes counts
for more than with a real runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightkube.resources.core_v1 import Pod
from tests.e2e.harness import eventually
from tests.rig import cni
from tests.rig.harness import NODES, Cluster
from tests.rig.mesh import ClusterMesh

from benchmarks.framework import Benchmark, Figure, Run, absolute, median, percentile, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

_WITH, _WITHOUT = "node-1", "node-2"
_WITHOUT_PLUGIN = "without the plugin"
_PROGRAM = ("sh", "-c", "date +%s.%N; exec sleep infinity")


def _run(run: Run) -> Iterator[Figure]:
    run.step("starting a cluster")
    with Cluster(NODES[:2]) as cluster, ClusterMesh(cluster) as mesh:
        _take_plugin_away(mesh)
        mesh.policy(mesh.namespace("shop"), "STRICT")
        mesh.namespace("legacy", in_mesh=False)
        kinds = {
            _WITHOUT_PLUGIN: ("shop", _WITHOUT),
            "a pod of the mesh": ("shop", _WITH),
            "a pod outside of the mesh": ("legacy", _WITH),
        }
        samples: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in run.rounds(100, 10, "pods"):
            for kind, (namespace, node) in kinds.items():
                samples[kind].append(_started(cluster, namespace, f"pod-{number}", node))
    for kind, took in samples.items():
        for percent in (50, 99):
            yield absolute(f"{kind}, p{percent}", percentile(took, percent), unit="ms")
        if kind != _WITHOUT_PLUGIN:
            without = samples[_WITHOUT_PLUGIN]
            yield ratio(kind, took, without, to="without the plugin", unit="ms")
            yield absolute(
                f"{kind}, added",
                percentile([a - b for a, b in zip(took, without, strict=True)], 50),
                unit="ms",
                note=f"{median(without):.1f} ms without the plugin",
            )


def _take_plugin_away(mesh: ClusterMesh) -> None:
    """From one of the nodes."""
    mesh.agents[_WITHOUT].terminate()
    cni.clear(mesh.cluster.nodes[_WITHOUT].machine)
    mesh.with_plugin = False
    agent = mesh.agents[_WITHOUT] = mesh.agent(_WITHOUT)
    agent.start()
    agent.await_ready(lambda: mesh.readiness(agent)[0])
    there = mesh.cluster.nodes[_WITH].machine
    eventually(lambda: cni.is_chained(there), what=f"the plugin of {_WITH}")


def _started(cluster: Cluster, namespace: str, name: str, node: str) -> float:
    """Start a pod, and end it; milliseconds from ADD to its first instruction."""
    metadata = {"namespace": namespace, "name": name}
    cluster.run_pod({"metadata": metadata, "spec": {"nodeName": node}}, _PROGRAM)
    worker = cluster.worker(namespace, name)
    first = eventually(lambda: cluster.logs(namespace, name).strip(), what=f"a word of {name}")
    # Both by the clock of the machine, as the pod's monotonic one can't be asked for by a shell.
    took = 1000 * (float(first) - worker.connecting_since)
    cluster.client.delete(Pod, name, namespace=namespace, grace_period=0)
    return took


BENCHMARK = Benchmark(
    about="a pod's start, from ADD to its first instruction, with and without the CNI plugin",
    run=_run,
    needs_root=True,
)
