"""What was measured, when and on what; and the file that keeps it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.framework.figure import Figure

RECORDED = Path(__file__).parents[1] / "recorded.json"
SCHEMA = "troth/benchmarks/v1"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where figures were measured."""

    processor: str
    cores: int
    kernel: str
    python: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark's figures of one run.

    Attributes:
        quick: They are rough.
    """

    name: str
    about: str
    when: datetime
    machine: Machine
    quick: bool
    figures: tuple[Figure, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The results of benchmarks, each by the name of its benchmark."""

    schema: str = SCHEMA
    results: dict[str, Result] = {}

    def figure(self, benchmark: str, name: str) -> Figure | None:
        """A recorded figure, if there is one."""
        result = self.results.get(benchmark)
        figures = result.figures if result else ()
        return next((figure for figure in figures if figure.name == name), None)


def load(path: Path = RECORDED) -> Record:
    """Read what was recorded; nothing when there is no file."""
    if not path.exists():
        return Record()
    return msgspec.json.decode(path.read_bytes(), type=Record)


def store(results: list[Result], path: Path = RECORDED) -> None:
    """Record results in the place of earlier ones of the same benchmarks."""
    kept = load(path).results | {result.name: result for result in results}
    record = Record(results=dict(sorted(kept.items())))
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(_rounded(record)), indent=1) + b"\n")
    new.replace(path)


def this_machine() -> Machine:
    """The machine as it describes itself."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return Machine(
        processor=next(names, platform.machine()),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release().partition("-")[0],
        python=platform.python_version(),
    )


def now() -> datetime:
    """The time of a result, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _rounded(record: Record) -> object:
    """The record with no more digits than mean something, so that its history can be read."""

    def walk(value: object) -> object:
        match value:
            case dict():
                return {key: walk(each) for key, each in value.items()}
            case list() | tuple():
                return [walk(each) for each in value]
            case float():
                return float(f"{value:.4g}")
            case _:
                return value

    return walk(msgspec.to_builtins(record))
