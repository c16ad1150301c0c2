"""What people see of a local mesh's status."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from tests.columns import assert_whole

from troth.cli.status import render_pods
from troth.control.messages import ContainerStatus, PodReport
from troth.mesh.model import PodPhase
from troth.policy.model import Mode
from troth.policy.scope import Scope
from troth.policy.verdict import DecidedBy, PortMode

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
STRICT = DecidedBy(scope=Scope.WORKLOAD, policy="finance/payments-strict")
DEFAULT = DecidedBy(scope=Scope.DEFAULT)


def pod(name: str, **fields: Any) -> PodReport:
    given: dict[str, Any] = {
        "namespace": "finance",
        "name": name,
        "workload": f"finance/{name}",
        "uid": name,
        "addresses": (),
        "phase": PodPhase.RUNNING,
        "ready": True,
        "containers": (),
        "in_mesh": True,
        "captured": True,
        "why": "",
        **fields,
    }
    return PodReport(**given)


PODS = (
    pod(
        "payments-0",
        identity="spiffe://cluster.local/ns/finance/sa/payments",
        mode=Mode.STRICT,
        decided_by=STRICT,
        ports={
            8080: PortMode(mode=Mode.STRICT, decided_by=STRICT),
            9090: PortMode(mode=Mode.PERMISSIVE, decided_by=STRICT),
        },
        certificate_expires=NOW + timedelta(hours=11, minutes=59),
    ),
    pod(
        "cron", ready=False, in_mesh=False, captured=False, why="namespace finance is not labelled"
    ),
)


def rendered(*, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(render_pods(PODS, now=NOW))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def test_a_wide_terminal_shows_a_table() -> None:
    lines = rendered(width=160).splitlines()
    assert len(lines) == 4
    assert lines[0].split() == (
        "POD PHASE READY CAPTURED MODE DECIDED BY IDENTITY CERT".split()  # noqa: SIM905 - a header
    )
    assert "finance/payments-strict (workload)" in lines[1]
    assert "  port 9090" in lines[2]
    assert "namespace finance is not labelled" in lines[3]


def test_a_narrow_terminal_shows_lines_for_each_pod() -> None:
    assert (
        rendered(width=80)
        == """\
finance/payments-0
  phase: Running, ready: yes, captured: yes, mode: STRICT
  decided by: finance/payments-strict (workload)
  identity: spiffe://cluster.local/ns/finance/sa/payments
  cert: 11h59m
  port 9090
  mode: PERMISSIVE
  decided by: finance/payments-strict (workload)
finance/cron
  phase: Running, ready: no, captured: no
  identity: not captured: namespace finance is not labelled
"""
    )


def test_a_pod_that_crashes_is_not_told_to_be_running() -> None:
    crashing = ContainerStatus(name="app", reason="CrashLoopBackOff", exit_code=3)
    out = io.StringIO()
    rows = render_pods((pod("payments-0", containers=(crashing,)),), now=NOW)
    Console(file=out, width=160).print(rows)
    assert "CrashLoopBackOff" in out.getvalue()
    assert "Running" not in out.getvalue()


def test_a_narrow_terminal_loses_nothing() -> None:
    assert_whole(render_pods(PODS, now=NOW))
