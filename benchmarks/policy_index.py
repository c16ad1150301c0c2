"""What it costs to know the effective mode of every port of a big cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from benchmarks.framework import Benchmark, Figure, Run, absolute, interleaved, middle, ratio
from benchmarks.framework.yardstick import UNIT, timed, yardstick
from benchmarks.policies import ROOT, policies, workloads
from troth.policy.index import PolicyChanges, PolicyIndex
from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORKLOADS = 10_000
_POLICIES = 1_000
_NAMESPACES = 100
_SCRATCH_TARGET_MS = 200
_CHANGE_TARGET_MS = 2


def _run(run: Run) -> Iterator[Figure]:
    everything = workloads(_WORKLOADS)
    before = policies(_POLICIES, namespaces=_NAMESPACES)
    changed = msgspec.structs.replace(before[-1], mode=Mode.STRICT)
    after = [*before[:-1], changed]
    touched = [
        one
        for one in everything
        if one.namespace == changed.namespace and changed.selector.items() <= one.labels.items()
    ]
    known = PolicyIndex(before, root_namespace=ROOT)

    known = PolicyIndex(before, root_namespace=ROOT)

    def scratch() -> None:
        index = PolicyIndex(before, root_namespace=ROOT)
        for one in everything:
            index.decide(one.namespace, one.labels, one.ports)

    def change() -> None:
        index = known.changed(PolicyChanges.between(before, after))
        for one in touched:
            index.decide(one.namespace, one.labels, one.ports)

    samples = interleaved(
        {
            "yardstick": yardstick,
            "scratch": lambda: timed(scratch),
            "change": lambda: timed(change),
        },
        run.rounds(20, 5, "effective modes"),
    )
    size = f"{_WORKLOADS:,} workloads, {_POLICIES:,} policies"
    yield absolute(
        "from scratch", middle(samples["scratch"]), unit="ms", target=_SCRATCH_TARGET_MS, note=size
    )
    yield ratio(
        "from scratch, relative", samples["scratch"], samples["yardstick"], to=UNIT, unit="ms"
    )
    yield absolute(
        "after one change",
        middle(samples["change"]),
        unit="ms",
        target=_CHANGE_TARGET_MS,
        note=f"{len(touched)} workloads touched",
    )
    yield ratio(
        "after one change, relative",
        samples["change"],
        samples["scratch"],
        to="from scratch",
        unit="ms",
    )


BENCHMARK = Benchmark(
    about="effective modes of 10,000 workloads under 1,000 policies, and after one change",
    run=_run,
)
