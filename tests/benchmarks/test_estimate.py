"""What samples come to, and how far that can be trusted."""

from __future__ import annotations

from functools import partial

import pytest
from benchmarks.framework import Better, absolute, interleaved, middle, percentile, ratio
from hypothesis import given
from hypothesis import strategies as st

SAMPLES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


def test_the_middle_is_the_median_between_its_quartiles() -> None:
    estimate = middle([9, 1, 3, 5, 7])
    assert (estimate.low, estimate.value, estimate.high) == (3, 5, 7)


def test_a_single_sample_has_no_spread() -> None:
    estimate = middle([4])
    assert (estimate.low, estimate.value, estimate.high, estimate.count) == (4, 4, 4, 1)


def test_one_wild_sample_moves_neither_median_nor_spread_much() -> None:
    calm = middle([10, 11, 12, 13, 14])
    wild = middle([10, 11, 12, 13, 9000])
    assert (calm.value, calm.high) == (wild.value, wild.high)


@pytest.mark.parametrize(("percent", "wanted"), [(50, 100), (99, 198), (100, 200)])
def test_a_percentile_is_a_sample_at_its_rank(percent: float, wanted: int) -> None:
    assert percentile(range(1, 201), percent).value == wanted


@given(SAMPLES, st.integers(1, 100))
def test_a_percentile_lies_within_its_spread(samples: list[float], percent: int) -> None:
    estimate = percentile(samples, percent)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate == percentile(samples, percent)


@given(SAMPLES, st.floats(0.1, 10))
def test_what_slows_a_whole_round_down_cancels_out(samples: list[float], slower: float) -> None:
    baseline = [2 * sample for sample in samples]
    figure = ratio(
        "cost", [slower * s for s in samples], [slower * b for b in baseline], to="it", unit="ms"
    )
    assert figure.estimate.value == pytest.approx(0.5)
    assert figure.estimate.high - figure.estimate.low == pytest.approx(0, abs=1e-9)


def test_a_ratio_needs_a_baseline_for_every_round() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio("cost", [1, 2], [1], to="it", unit="ms")


@pytest.mark.parametrize(
    ("better", "target", "met"),
    [
        (Better.LOWER, 5, True),
        (Better.LOWER, 4.9, False),
        (Better.HIGHER, 5, True),
        (Better.HIGHER, 5.1, False),
        (Better.LOWER, None, None),
    ],
)
def test_a_target_is_met_on_its_better_side(
    better: Better, target: float | None, *, met: bool | None
) -> None:
    assert absolute("f", middle([5]), unit="MB", better=better, target=target).met is met


def test_contenders_take_turns_at_beginning_a_round() -> None:
    order: list[str] = []

    def contender(name: str) -> float:
        order.append(name)
        return len(order)

    samples = interleaved({name: partial(contender, name) for name in "abc"}, range(3))
    assert "".join(order) == "abcbcacab"
    assert samples == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}
