"""What the mesh asks of the controller and the API server: 200 nodes that watch 10,000 pods.

50 pods change in a second, so 10,000 times a second a node is told. To the API server all nodes are
alike. On their side, on the same few cores, one is a whole node that keeps what it is told, some
read each event, and most only take the bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from lightkube import KubeConfig

from benchmarks.framework import (
    Benchmark,
    Better,
    Figure,
    Run,
    absolute,
    median,
    middle,
    percentile,
    ratio,
)
from benchmarks.rig.load import Meter, change_pods, received_bytes, simulated_nodes
from benchmarks.rig.node import Node
from benchmarks.rig.population import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHANGES_PER_SECOND = 50.0


class _Round(msgspec.Struct, frozen=True, kw_only=True):
    """Some seconds of changing pods, first without nodes and then with them."""

    idle_cores: float
    busy_cores: float
    memory_mb: float
    controller_cores: float
    controller_mb: float
    bytes_per_node: float
    delivered: float
    lateness_ms: list[float]


def _run(run: Run) -> Iterator[Figure]:
    size = run.choose(
        Size(accounts=200, services=500, pods=10_000), Size(accounts=20, services=50, pods=500)
    )
    followers, watchers, readers = run.choose((1, 9, 190), (1, 4, 5))
    seconds = run.choose(20.0, 4.0)
    with Node(size, run.step) as node:
        rounds = [
            _round(node, followers=followers, watchers=watchers, readers=readers, seconds=seconds)
            for _ in run.rounds(3, 1, "changing pods")
        ]
    nodes = followers + watchers + readers
    per_node = [(each.busy_cores - each.idle_cores) / nodes for each in rounds]
    deliveries = _CHANGES_PER_SECOND * nodes
    at = f"{size.pods:,} pods, {_CHANGES_PER_SECOND:g} changes/s, {nodes} nodes"
    yield ratio(
        f"API server's CPU, {nodes} nodes",
        [each.busy_cores for each in rounds],
        [each.idle_cores for each in rounds],
        to="without nodes",
        unit="cores",
    )
    yield absolute(
        "API server's CPU per change and node",
        middle([each * 1e6 / _CHANGES_PER_SECOND for each in per_node]),
        unit="µs",
        note=f"{at}; {deliveries:,.0f} deliveries/s",
    )
    yield absolute(
        "delivered to the nodes that only take bytes",
        middle([each.delivered for each in rounds]),
        unit="of what changed",
        better=Better.HIGHER,
    )
    yield absolute("API server", middle([each.memory_mb for each in rounds]), unit="MB resident")
    yield absolute(
        "over the API, per node and second",
        middle([each.bytes_per_node / 1000 for each in rounds]),
        unit="kB/s",
        note=at,
    )
    lateness = [late for each in rounds for late in each.lateness_ms]
    yield absolute("change to node, p50", percentile(lateness, 50), unit="ms", note=at)
    yield absolute("change to node, p99", percentile(lateness, 99), unit="ms", note=at)
    yield absolute(
        "controller's CPU",
        middle([each.controller_cores for each in rounds]),
        unit="cores",
        note=f"{median([each.controller_mb for each in rounds]):.0f} MB resident",
    )


def _round(node: Node, *, followers: int, watchers: int, readers: int, seconds: float) -> _Round:
    plane = node.cluster.control_plane
    config = KubeConfig.from_file(plane.kubeconfig(outside=True)).get()
    if config is None:
        raise ValueError("the kubeconfig has no context")
    meter = Meter(plane.machine, plane.apiserver, node.mesh.controller)
    with meter:
        change_pods(config, node.size, per_second=_CHANGES_PER_SECOND, seconds=seconds)
    idle = meter.usage[plane.apiserver.name]
    machine = node.cluster.nodes[node.name].machine
    with simulated_nodes(
        node.cluster, machine, followers=followers, watchers=watchers, readers=readers
    ) as nodes:
        before = received_bytes(machine)
        with meter:
            change_pods(config, node.size, per_second=_CHANGES_PER_SECOND, seconds=seconds)
        received = received_bytes(machine) - before
    busy = meter.usage[plane.apiserver.name]
    controller = meter.usage[node.mesh.controller.name]
    return _Round(
        idle_cores=idle.cores,
        busy_cores=busy.cores,
        memory_mb=busy.memory_mb,
        controller_cores=controller.cores,
        controller_mb=controller.memory_mb,
        # The real agent and kube-proxy are on this machine, too: the agent is one node more.
        bytes_per_node=received / seconds / (followers + watchers + readers + 1),
        delivered=nodes.taken.events / readers / seconds / _CHANGES_PER_SECOND,
        lateness_ms=nodes.seen.lateness_ms,
    )


BENCHMARK = Benchmark(
    about="API server and controller with nodes that follow 10,000 pods, 50 changes a second",
    run=_run,
    needs_root=True,
)
