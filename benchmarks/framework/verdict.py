"""Whether a figure got worse than it was: pure, and honest about noise."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from benchmarks.framework.figure import Better

if TYPE_CHECKING:
    from benchmarks.framework.figure import Figure

TOLERANCE = 0.15
"""How much worse a ratio may become before anybody asks."""


class Verdict(StrEnum):
    """How a figure compares with the recorded one."""

    NEW = "new"
    """Nothing was recorded."""

    MACHINE_BOUND = "machine-bound"
    """It is no ratio, so another run's says little."""

    OK = "ok"
    """Within the tolerance, or better."""

    NOISE = "noise"
    """Beyond the tolerance, but the spreads overlap: it can't be told."""

    WORSE = "worse"
    """Beyond the tolerance and beyond the spread of both."""


def compare(measured: Figure, recorded: Figure | None) -> Verdict:
    """Hold a figure against the recorded one of the same name."""
    if recorded is None:
        return Verdict.NEW
    if not measured.comparable:
        return Verdict.MACHINE_BOUND
    now, then = measured.estimate, recorded.estimate
    if measured.better is Better.LOWER:
        beyond_tolerance = now.value > then.value * (1 + TOLERANCE)
        beyond_spread = now.low > then.high
    else:
        beyond_tolerance = now.value < then.value * (1 - TOLERANCE)
        beyond_spread = now.high < then.low
    if not beyond_tolerance:
        return Verdict.OK
    return Verdict.WORSE if beyond_spread else Verdict.NOISE
