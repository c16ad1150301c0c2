"""A number drawn from samples, with how far it can be trusted: pure."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES = 200


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A value and its spread.

    Attributes:
        value: The best guess.
        low: Lower end of the middle half of what it might have been.
        high: Upper end of that.
        count: How many samples it was drawn from.
    """

    value: float
    low: float
    high: float
    count: int


def middle(samples: Sequence[float]) -> Estimate:
    """The median, with the quartiles (the interquartile range, IQR) as its spread."""
    low, high = _quartiles(samples)
    return Estimate(value=median(samples), low=low, high=high, count=len(samples))


def percentile(samples: Sequence[float], percent: float) -> Estimate:
    """A percentile by nearest rank, with the IQR of its bootstrap distribution as its spread.

    The resampling is seeded: the same samples always give the same answer.
    """
    source = random.Random(len(samples))  # noqa: S311 - statistics, not secrets
    guesses = [
        _nearest_rank(source.choices(samples, k=len(samples)), percent) for _ in range(_RESAMPLES)
    ]
    low, high = _quartiles(guesses)
    value = _nearest_rank(samples, percent)
    return Estimate(value=value, low=min(low, value), high=max(high, value), count=len(samples))


def median(samples: Sequence[float]) -> float:
    """The middle one of the samples."""
    return statistics.median(samples)


def _quartiles(samples: Sequence[float]) -> tuple[float, float]:
    if len(samples) == 1:
        return samples[0], samples[0]
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def _nearest_rank(samples: Sequence[float], percent: float) -> float:
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
