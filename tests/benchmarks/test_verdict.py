"""When a figure counts as worse than it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks.framework import Benchmark, Better, Estimate, Figure
from benchmarks.framework.record import Record, load, store
from benchmarks.framework.runner import ATTEMPTS, measure, measure_and_compare, worse
from benchmarks.framework.verdict import Verdict, compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.framework import Run


class Silent:
    """Progress that nobody looks at."""

    def begin(self, name: str) -> None:
        """Say nothing."""

    def tell(self, what: str, done: int = 0, total: int | None = None) -> None:
        """Say nothing."""


def figure(value: float, spread: float = 0.1, *, better: Better = Better.LOWER) -> Figure:
    estimate = Estimate(value=value, low=value - spread, high=value + spread, count=9)
    return Figure(name="cost", unit="times it", estimate=estimate, comparable=True, better=better)


def run_of(values: Sequence[float]) -> Benchmark:
    """A benchmark that comes to one of the values after the other."""
    left = iter(values)

    def run(_: Run) -> Iterator[Figure]:
        yield figure(next(left))

    return Benchmark(about="nothing", run=run)


@pytest.mark.parametrize(
    ("now", "then", "verdict"),
    [
        pytest.param(figure(1.1), figure(1.0), Verdict.OK, id="within the tolerance"),
        pytest.param(figure(0.5), figure(1.0), Verdict.OK, id="better"),
        pytest.param(figure(1.3), figure(1.0), Verdict.WORSE, id="worse"),
        pytest.param(figure(1.3, 0.25), figure(1.0), Verdict.NOISE, id="now too noisy"),
        pytest.param(figure(1.3), figure(1.0, 0.25), Verdict.NOISE, id="then too noisy"),
        pytest.param(figure(1.3), None, Verdict.NEW, id="new"),
        pytest.param(
            figure(0.5, better=Better.HIGHER),
            figure(1.0, better=Better.HIGHER),
            Verdict.WORSE,
            id="less where more is better",
        ),
        pytest.param(
            figure(1.5, better=Better.HIGHER),
            figure(1.0, better=Better.HIGHER),
            Verdict.OK,
            id="more where more is better",
        ),
    ],
)
def test_worse_is_beyond_the_tolerance_and_the_spread(
    now: Figure, then: Figure | None, verdict: Verdict
) -> None:
    assert compare(now, then) is verdict


def test_another_machines_megabytes_are_not_held_against_ours() -> None:
    now = Figure(name="size", unit="MB", estimate=figure(90).estimate, comparable=False)
    assert compare(now, figure(1.0)) is Verdict.MACHINE_BOUND


@pytest.mark.parametrize(
    ("values", "is_worse"),
    [
        pytest.param([1.0], False, id="never suspected"),
        pytest.param([2.0, 1.0], False, id="cleared by the second run"),
        pytest.param([2.0, 2.0, 1.0], False, id="cleared by the last run"),
        pytest.param([2.0] * ATTEMPTS, True, id="worse each time"),
    ],
)
def test_a_suspect_is_measured_again_before_it_is_called_worse(
    tmp_path: Path, values: list[float], *, is_worse: bool
) -> None:
    recorded = record_of(1.0, tmp_path)
    result = measure_and_compare("it", run_of(values), recorded, progress=Silent())
    assert bool(worse(result, recorded)) is is_worse


def test_figures_that_cannot_be_told_apart_are_a_mistake() -> None:
    def run(_: Run) -> Iterator[Figure]:
        yield from (figure(1.0), figure(2.0))

    with pytest.raises(ValueError, match="same name"):
        measure("it", Benchmark(about="nothing", run=run), quick=False, progress=Silent())


def test_recording_one_benchmark_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "recorded.json"
    for name, value in (("one", 1.0), ("other", 2.0), ("one", 1.23456789)):
        store([measure(name, run_of([value]), quick=False, progress=Silent())], path)
    recorded = load(path)
    assert list(recorded.results) == ["one", "other"]
    one = recorded.figure("one", "cost")
    assert one is not None
    assert one.estimate.value == 1.235


def record_of(value: float, folder: Path) -> Record:
    path = folder / "recorded.json"
    store([measure("it", run_of([value]), quick=False, progress=Silent())], path)
    return load(path)
