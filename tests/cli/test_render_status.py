"""What people see of a local mesh's status."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from troth.cli._render_status import PodTable
from troth.local import PodReport, PortStatus
from troth.mesh import PodPhase
from troth.policy import DecidedBy, Mode, Scope

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
            8080: PortStatus(mode=Mode.STRICT, decided_by=STRICT),
            9090: PortStatus(mode=Mode.PERMISSIVE, decided_by=STRICT),
        },
        certificate_expires=NOW + timedelta(hours=11, minutes=59),
    ),
    pod(
        "cron", ready=False, in_mesh=False, captured=False, why="namespace finance is not labelled"
    ),
)


def rendered(*, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(PodTable(PODS, now=NOW))
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


def test_a_narrow_terminal_shows_a_block_for_each_pod() -> None:
    assert (
        rendered(width=80)
        == """\
finance/payments-0  Running, ready, captured
  mode       STRICT by finance/payments-strict (workload)
  port 9090  PERMISSIVE by finance/payments-strict (workload)
  identity   spiffe://cluster.local/ns/finance/sa/payments
  cert       11h59m
finance/cron  Running, not ready, not captured: namespace finance is not
labelled
"""
    )


@pytest.mark.parametrize("width", [80, 100, 160])
def test_nothing_is_cut_off(width: int) -> None:
    shown = rendered(width=width)
    for words in ("payments-0", "STRICT", "PERMISSIVE", "sa/payments", "11h59m", "labelled"):
        assert words in shown
