"""One measured figure: pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from benchmarks.framework.estimate import Estimate, median, middle

if TYPE_CHECKING:
    from collections.abc import Sequence


class Better(StrEnum):
    """Which way a figure should go."""

    LOWER = "lower"
    HIGHER = "higher"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What one quantity came to.

    Attributes:
        name: Unique within its benchmark.
        unit: Of the estimate; of a ratio, what it is a ratio to, as in ``times HAProxy's``.
        estimate: The value and its spread.
        comparable: It is a ratio of two things measured in the same run, so another machine's can
            be held against it. Otherwise it is this machine's.
        better: Which way it should go.
        target: What it should reach; None when it is only shown.
        note: What stands behind it, in words and absolute numbers.
    """

    name: str
    unit: str
    estimate: Estimate
    comparable: bool
    better: Better = Better.LOWER
    target: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        if self.better is Better.LOWER:
            return self.estimate.value <= self.target
        return self.estimate.value >= self.target


def ratio(
    name: str,
    samples: Sequence[float],
    baseline: Sequence[float],
    *,
    to: str,
    unit: str,
    better: Better = Better.LOWER,
    target: float | None = None,
) -> Figure:
    """A figure relative to a baseline that was measured in the same rounds.

    Each round's sample is divided by the same round's baseline, so that what slows a whole round
    down cancels out.

    Args:
        name: The figure's.
        samples: One per round.
        baseline: One per round, in the same order.
        to: What the baseline is.
        unit: Of samples and baseline.
        better: Which way the ratio should go.
        target: What the ratio should reach.
    """
    return Figure(
        name=name,
        unit=f"times {to}",
        estimate=middle([one / other for one, other in zip(samples, baseline, strict=True)]),
        comparable=True,
        better=better,
        target=target,
        note=f"{short(median(samples))} to {short(median(baseline))} {unit}",
    )


def absolute(
    name: str,
    estimate: Estimate,
    *,
    unit: str,
    better: Better = Better.LOWER,
    target: float | None = None,
    note: str = "",
) -> Figure:
    """A figure of this machine's, such as memory or a time that has a target of its own."""
    return Figure(
        name=name,
        unit=unit,
        estimate=estimate,
        comparable=False,
        better=better,
        target=target,
        note=note,
    )


def short(value: float) -> str:
    """A number with three digits that count, and never in powers of ten."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 4  # noqa: PLR2004 - digits
    return f"{value:,.{digits}f}"
