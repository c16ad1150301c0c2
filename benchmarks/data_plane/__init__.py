"""What mutual TLS costs in CPU and memory: troth, and what a user would pick instead.

CPU time is that of the proxies at both ends, from /proc: their own and the kernel's for them. With
troth that is Envoy and the node agent, events on. The kernel does part of the network's work in
whatever process it interrupts, so the CPU time of the whole machine is told as well, less what the
same load costs between pods with nothing between them; other programs on the machine blur that.
Memory is that of the processes, without the kernel's buffers.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from benchmarks.data_plane import load
from benchmarks.data_plane.rig import DIRECT, PATHS, TROTH, Rig
from benchmarks.framework import Benchmark, Better, Figure, Run, interleaved, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BASELINE, SIDECAR = "haproxy", "envoy-http"

_HELD = 1000
_GIB = 2**30


class _Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one round of load on one path cost."""

    outcome: load.Outcome
    proxies_seconds: float

    @property
    def per_request(self) -> float:
        """Microseconds of the proxies' CPU time per request."""
        return self.proxies_seconds * 1e6 / self.outcome.requests

    @property
    def machine_per_request(self) -> float:
        """Microseconds of all CPU time per request."""
        return self.outcome.machine_seconds * 1e6 / self.outcome.requests

    @property
    def per_gigabyte(self) -> float:
        """Seconds of the proxies' CPU time per GiB."""
        return self.proxies_seconds * _GIB / self.outcome.bytes

    @property
    def requests_per_second(self) -> float:
        """How many there were."""
        return self.outcome.requests / self.outcome.seconds


def _run(run: Run) -> Iterator[Figure]:
    run.step("making pods")
    with Rig() as rig:
        # First, while the proxies' heaps are small.
        held = [_memory(rig, run)]
        kept = _costs(rig, run, "requests", connections=32)
        alone = _costs(rig, run, "connections", connections=16, close=True)
        bulk = _costs(rig, run, "bytes", connections=4, target=load.BIG)

    per_request = {name: [one.per_request for one in costs] for name, costs in kept.items()}
    yield from ratios("CPU per request", per_request, unit="µs", target=1.0)
    yield ratio(
        "CPU per request, troth beside a sidecar",
        per_request[TROTH],
        per_request[SIDECAR],
        to="the Istio-shaped pair's",
        unit="µs",
        target=0.3,
    )
    yield from ratios(
        "whole machine per request",
        {
            name: [
                one.machine_per_request - without.machine_per_request
                for one, without in zip(costs, kept[DIRECT], strict=True)
            ]
            for name, costs in kept.items()
        },
        unit="µs",
    )
    yield from ratios(
        "CPU per connection",
        {name: [one.per_request for one in costs] for name, costs in alone.items()},
        unit="µs",
        target=0.6,
    )
    yield from ratios(
        "connections per second",
        {name: [one.requests_per_second for one in costs] for name, costs in alone.items()},
        unit="1/s",
        better=Better.HIGHER,
    )
    yield from ratios(
        "CPU per GiB",
        {name: [one.per_gigabyte for one in costs] for name, costs in bulk.items()},
        unit="s",
        target=0.6,
    )
    yield from ratios(
        f"memory per {_HELD:,} connections",
        {name: [each[name] for each in held] for name in PATHS},
        unit="MB",
    )


def _costs(
    rig: Rig,
    run: Run,
    what: str,
    *,
    connections: int,
    target: str = load.SMALL,
    close: bool = False,
) -> dict[str, list[_Cost]]:
    seconds = run.choose(3, 1)

    def measure(name: str) -> _Cost:
        before = rig.cpu_seconds(name)
        outcome = rig.closed_loop(
            name, target, connections=connections, seconds=seconds, close=close
        )
        return _Cost(outcome=outcome, proxies_seconds=rig.cpu_seconds(name) - before)

    return interleaved({name: partial(measure, name) for name in PATHS}, run.rounds(7, 2, what))


def _memory(rig: Rig, run: Run) -> dict[str, float]:
    """MB that each path's proxies hold more of with connections than without."""
    grown = {}
    for name in run.track(PATHS, "idle connections"):
        before = rig.memory_with(name, 1)
        grown[name] = rig.memory_with(name, 1 + _HELD) - before
    return grown


def ratios(
    what: str,
    samples: Mapping[str, Sequence[float]],
    *,
    unit: str,
    better: Better = Better.LOWER,
    target: float | None = None,
) -> Iterator[Figure]:
    """Each pair beside the baseline; the target is troth's."""
    for name in PATHS:
        if name not in {DIRECT, BASELINE}:
            yield ratio(
                f"{what}, {name}",
                samples[name],
                samples[BASELINE],
                to="HAProxy's",
                unit=unit,
                better=better,
                target=target if name == TROTH else None,
            )


BENCHMARK = Benchmark(
    about="CPU per request, connection and GiB, and memory, beside other proxies",
    run=_run,
    needs=("haproxy", "nginx", "stunnel", "wrk"),
    needs_root=True,
)
