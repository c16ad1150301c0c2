"""What one node takes: the memory of its Envoy and of its agent, and how long they need to start.

The node is real, with 50 pods; the rest of the mesh (5,000 pods, 500 services, 200 service
accounts) is in a real API server. Each round ends the agent and its Envoy and starts them again.

PSS is less while other processes run the same programs: where other Envoys run, what is resident is
nearer to what a node pays.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from benchmarks.framework import Benchmark, Figure, Run, absolute, middle, ratio, short
from benchmarks.framework.yardstick import UNIT, yardstick
from benchmarks.rig.node import Node
from benchmarks.rig.population import Size
from benchmarks.rig.process import Memory, cpu_seconds, memory

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENVOY_TARGET_MB = 80
_AGENT_TARGET_MB = 70
_START_TARGET_SECONDS = 3
_FLAT = 1.3
_QUIET_SECONDS = 3.0
_PATIENCE_SECONDS = 20.0


class _Round(msgspec.Struct, frozen=True, kw_only=True):
    """One start: how long it took, and what was there when nothing happened any more."""

    seconds: float
    cpu_ms: float
    yardstick_ms: float
    agent: Memory
    envoy: Memory


def _run(run: Run) -> Iterator[Figure]:
    few, usual, many = run.choose((10, 50, 100), (2, 5, 10))
    size = run.choose(Size(), Size(accounts=20, services=50, pods=500))
    rounds: dict[int, list[_Round]] = {}
    with Node(size, run.step) as node:
        for count in (few, usual, many):
            run.step(f"starting {count} pods")
            node.grow(count)
            what = f"restarting with {count} pods"
            rounds[count] = [_restart(node) for _ in run.rounds(5, 2, what)]
    of_mesh = f"{usual} of {size.pods + usual:,} pods"
    for name, target in (("envoy", _ENVOY_TARGET_MB), ("agent", _AGENT_TARGET_MB)):
        sizes = {count: [getattr(each, name) for each in those] for count, those in rounds.items()}
        resident = middle([each.rss_mb for each in sizes[usual]]).value
        peak = middle([each.peak_mb for each in sizes[usual]]).value
        yield absolute(
            f"{name}, {usual} local pods",
            middle([each.pss_mb for each in sizes[usual]]),
            unit="MB PSS",
            target=target,
            note=f"{of_mesh}; {short(resident)} resident, {short(peak)} at its peak",
        )
        yield ratio(
            f"{name}, {many} local pods",
            [each.rss_mb for each in sizes[many]],
            [each.rss_mb for each in sizes[few]],
            to=f"with {few}",
            unit="MB",
            target=_FLAT,
        )
    yield absolute(
        "cold start",
        middle([each.seconds for each in rounds[usual]]),
        unit="s",
        target=_START_TARGET_SECONDS,
        note=f"until all is acknowledged and {usual} pods are captured",
    )
    yield ratio(
        "cold start, CPU of both",
        [each.cpu_ms for each in rounds[usual]],
        [each.yardstick_ms for each in rounds[usual]],
        to=UNIT,
        unit="ms",
    )


def _restart(node: Node) -> _Round:
    seconds = node.restart()
    pids = node.pids
    cpu_ms = sum(map(cpu_seconds, pids.values())) * 1000
    _await_quiet(list(pids.values()))
    return _Round(
        seconds=seconds,
        cpu_ms=cpu_ms,
        yardstick_ms=yardstick(),
        agent=memory(pids["agent"]),
        envoy=memory(pids["envoy"]),
    )


def _await_quiet(pids: list[int]) -> None:
    """Wait until processes have nothing more to do."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    used = -1.0
    while (now := sum(map(cpu_seconds, pids))) - used > 0.02 and time.monotonic() < deadline:  # noqa: PLR2004 - two ticks
        used = now
        time.sleep(_QUIET_SECONDS)


BENCHMARK = Benchmark(
    about="memory and cold start of one node's Envoy and agent in a mesh of 5,000 pods",
    run=_run,
    needs_root=True,
)
