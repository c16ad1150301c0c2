"""Runs benchmarks, and measures again what seems to have got worse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from benchmarks.framework.benchmark import Run
from benchmarks.framework.record import Result, now, this_machine
from benchmarks.framework.verdict import Verdict, compare

if TYPE_CHECKING:
    from benchmarks.framework.benchmark import Benchmark, Progress
    from benchmarks.framework.record import Record

ATTEMPTS = 3
"""How often a figure must come out worse, and never otherwise, to be called so."""


def measure(name: str, benchmark: Benchmark, *, quick: bool, progress: Progress) -> Result:
    """Run one benchmark."""
    progress.begin(name)
    figures = tuple(benchmark.run(Run(quick=quick, progress=progress)))
    if len({figure.name for figure in figures}) < len(figures):
        raise ValueError(f"two figures of {name} have the same name")
    return Result(
        name=name,
        about=benchmark.about,
        when=now(),
        machine=this_machine(),
        quick=quick,
        figures=figures,
    )


def measure_and_compare(
    name: str, benchmark: Benchmark, recorded: Record, *, progress: Progress
) -> Result:
    """Run one benchmark, and again as long as a figure comes out worse than recorded.

    A figure that was not worse in one of the runs is not worse: that run shows what the code can
    do, and the others what else the machine was doing.

    Returns:
        Each figure as it came out the first time that it was not worse.
    """
    result = measure(name, benchmark, quick=False, progress=progress)
    for _ in range(ATTEMPTS - 1):
        suspects = worse(result, recorded)
        if not suspects:
            break
        again = {
            figure.name: figure
            for figure in measure(name, benchmark, quick=False, progress=progress).figures
        }
        figures = tuple(
            again.get(each.name, each) if each.name in suspects else each for each in result.figures
        )
        result = msgspec.structs.replace(result, figures=figures)
    return result


def worse(result: Result, recorded: Record) -> frozenset[str]:
    """The names of the figures that are worse than recorded."""
    return frozenset(
        figure.name
        for figure in result.figures
        if compare(figure, recorded.figure(result.name, figure.name)) is Verdict.WORSE
    )
