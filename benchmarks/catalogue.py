"""Every benchmark by name. The modules are imported when they are asked for: each has its needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.framework import Benchmark

NAMES = (
    "policy-index",
    "pipeline",
    "signing",
    "commands",
    "data-plane",
    "latency",
    "enforcement",
    "pod-start",
    "footprint",
    "control-plane",
    "real-nodes",
)
"""In the order in which they run, the quick ones first."""


def find(name: str) -> Benchmark:
    """The benchmark of module ``benchmarks.NAME``, by its name with hyphens."""
    benchmark: Benchmark = import_module(f"benchmarks.{name.replace('-', '_')}").BENCHMARK
    return benchmark
