"""Going through the steps on a running mesh."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from troth.demo.judge import judge_attempt, judge_trace
from troth.demo.report import Policy, StepReport
from troth.demo.scenario import HANDSHAKE, STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.demo.mesh import DemoMesh
    from troth.demo.report import TryReport
    from troth.demo.scenario import Try
    from troth.trace.trace import Trace

# Envoy acknowledges a policy a few milliseconds before its workers go by it. So a try that comes
# out otherwise is made again; what counts is what still holds after that.
_SETTLE_SECONDS = 3.0
_AGAIN_SECONDS = 0.05


def walk(mesh: DemoMesh) -> Iterator[StepReport]:
    """Apply each step's policy, try what it says, and report, one step after the other.

    Raises:
        TrothError: The mesh broke down, or doesn't take a policy.
    """
    for number, stage in enumerate(STAGES, start=1):
        manifest = mesh.apply(stage.policy)
        tries = tuple(_settled(mesh, tried) for tried in stage.tries)
        yield StepReport(
            number=number,
            title=stage.title,
            says=stage.says,
            policy=Policy(file=f"policies/{stage.policy}", manifest=manifest)
            if stage.policy
            else None,
            tries=tries,
            ok=all(report.ok for report in tries),
        )


def trace_handshake(mesh: DemoMesh) -> tuple[Trace, TryReport]:
    """Trace one good connection of the mesh, and judge it.

    Raises:
        TrothError: The mesh broke down.
    """
    trace = mesh.trace(HANDSHAKE)
    return trace, judge_trace(HANDSHAKE, trace)


def _settled(mesh: DemoMesh, tried: Try) -> TryReport:
    deadline = time.monotonic() + _SETTLE_SECONDS
    while not (report := _once(mesh, tried)).ok and time.monotonic() < deadline:
        time.sleep(_AGAIN_SECONDS)
    return report


def _once(mesh: DemoMesh, tried: Try) -> TryReport:
    if tried.credentials is None:
        return judge_attempt(tried, mesh.connect(tried))
    return judge_trace(tried, mesh.trace(tried))
