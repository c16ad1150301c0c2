"""What all benchmarks share: figures and their spread, verdicts, records, reports, progress."""

from __future__ import annotations

from benchmarks.framework.benchmark import Benchmark, Run
from benchmarks.framework.estimate import Estimate, median, middle, percentile
from benchmarks.framework.figure import Better, Figure, absolute, ratio, short
from benchmarks.framework.interleave import interleaved

__all__ = [
    "Benchmark",
    "Better",
    "Estimate",
    "Figure",
    "Run",
    "absolute",
    "interleaved",
    "median",
    "middle",
    "percentile",
    "ratio",
    "short",
]
