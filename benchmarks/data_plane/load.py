"""Load on one path, and what came of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from benchmarks.data_plane.proc import parse_machine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SMALL, BIG = "/", "/big"
BIG_BYTES = 64 * 2**20

_REPORT = """\
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "bytes": %d, "seconds": %f, "errors": %d, "p50": %d, "p99": %d}\\n',
    summary.requests, summary.bytes, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""

_WATCHED = 'head -n 1 /proc/stat && "$@" && head -n 1 /proc/stat'
"""Runs a command between two looks at the machine's CPU time, from as near as can be."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of some load.

    Attributes:
        requests: How many were answered.
        bytes: How many were read.
        seconds: For how long there was load.
        errors: Connections and requests that failed.
        p50: Median time to an answer in microseconds.
        p99: That which one in a hundred exceeded.
        machine_seconds: CPU time of the whole machine in the meantime.
    """

    requests: int
    bytes: int
    seconds: float
    errors: int
    p50: float
    p99: float
    machine_seconds: float = 0.0


def prepare(files: Path) -> None:
    """Write what `closed_loop` needs into ``files``."""
    (files / "report.lua").write_text(_REPORT)


def closed_loop(
    files: Path, url: str, *, connections: int, seconds: float, close: bool = False
) -> list[str]:
    """The command that sends a request on each connection as soon as the last is answered.

    Args:
        files: Where `prepare` wrote.
        url: What to ask for.
        connections: How many there are at any time.
        seconds: For how long; wrk knows whole ones.
        close: Whether every request has a connection of its own.
    """
    alone = ("-H", "Connection: close") if close else ()
    return [
        *("sh", "-c", _WATCHED, "sh"),
        *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"),
        *("-s", str(files / "report.lua"), *alone, url),
    ]


def parse_closed_loop(output: str) -> Outcome:
    """Read what `closed_loop`'s command wrote."""
    lines = output.splitlines()
    counted = json.loads(next(line for line in lines if line.startswith("{")))
    before, after = (parse_machine(line) for line in (lines[0], lines[-1]))
    if not counted["requests"]:  # so none took less than all the time
        counted["p50"] = counted["p99"] = counted["seconds"] * 1e6
    return msgspec.convert(counted | {"machine_seconds": after - before}, Outcome)


def fixed_rate(log: Path, url: str, *, connections: int, seconds: float, rate: float) -> list[str]:
    """The command that sends ``rate`` requests a second, spread over the connections."""
    each = max(1, round(rate / connections))
    return [
        *("h2load", "--h1", "-t1", f"-c{connections}", f"-D{max(1, round(seconds))}"),
        *(f"--rps={each}", f"--log-file={log}", url),
    ]


def parse_fixed_rate(log: Sequence[str]) -> list[float]:
    """How long each request took that was answered, in microseconds."""
    rows = (line.split("\t") for line in log)
    return [float(row[2]) for row in rows if row[1] == "200"]
