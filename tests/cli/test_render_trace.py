"""What people see of a trace, as whole texts below this directory.

To look at a changed rendering, print what ``rendered`` returns.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from rich.console import Console
from tests.columns import assert_whole
from tests.connect.samples import (
    FOREIGN_CLIENT,
    FOREIGN_SERVER,
    GONE,
    OUTSIDE,
    event,
    found,
    handshake,
    listening,
)
from tests.samples import STRICT, WEB

from troth.cli.trace import render_trace
from troth.connect.diagnose import report
from troth.connect.findings import Reached
from troth.connect.report import Credentials
from troth.handshake.record import Verdict
from troth.policy.model import Mode
from troth.traffic.connection import Cause, Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.connect.report import Findings

GOLDEN = Path(__file__).with_name("golden") / "trace"

STRICT_SERVER = {"mode": Mode.STRICT, "decided_by": STRICT, "plaintext": False}
CRON = {"source": "legacy/cron", "destination": "finance/payments", "port": 8080}
CRON_CLIENT = {
    "source": "legacy/cron",
    "identity": None,
    "expected": None,
    "tunnel": False,
    "why": f"legacy/cron is not in the mesh: {OUTSIDE}",
}

RENDERINGS: Mapping[str, Findings] = {
    "accepted": found(
        reported=event(Outcome.ACCEPTED, peer=WEB, tls_version="TLSv1.3", tls_group="X25519"),
        trace=handshake(
            Verdict.ACCEPTED,
            "each side trusts the other's certificate",
            reported=event(Outcome.ACCEPTED, peer=WEB),
        ),
        no_handshake=None,
    ),
    "strict": found(
        question=CRON,
        route=FOREIGN_CLIENT,
        client=CRON_CLIENT,
        server=STRICT_SERVER,
        reached=Reached.RESET,
        detail="Connection reset by peer",
        reported=event(Outcome.REFUSED, Reason.PLAINTEXT_TO_STRICT),
        explained=Cause(
            cause="Plaintext, and finance/strict sets STRICT for namespace finance.",
            remedy="Put namespace legacy in the mesh, or set PERMISSIVE for port 8080.",
        ),
        no_handshake=f"legacy/cron has no certificate to show: {OUTSIDE}",
    ),
    "impostor": found(
        question=CRON | {"credentials": Credentials.FOREIGN_CA, "claim": "finance/web"},
        route=FOREIGN_CLIENT,
        client=CRON_CLIENT,
        reported=event(Outcome.PLAINTEXT),
        trace=handshake(
            Verdict.REFUSED,
            "the server refused the client's certificate: unknown_ca (48)",
            credentials=Credentials.FOREIGN_CA,
            reported=event(Outcome.REFUSED, Reason.UNKNOWN_AUTHORITY),
        ),
        no_handshake=None,
        explained=Cause(
            cause="legacy/cron showed a certificate that no CA of the mesh has signed.",
            remedy="Let troth issue its certificate: put namespace legacy in the mesh.",
        ),
    ),
    "app-not-listening": found(
        reached=Reached.CLOSED,
        reported=event(Outcome.FAILED, Reason.APP_UNREACHABLE, peer=WEB),
        listening=listening("127.0.0.1:8080"),
        no_handshake="it isn't part of this picture",
    ),
    "no-endpoints": found(
        endpoints=False,
        reached=Reached.RESET,
        detail="Connection reset by peer",
        route={"unready": ("finance/payments-0: container payments: exit code 1",)},
        no_handshake="there is no endpoint to make one with",
    ),
    "envoy-gone": found(
        reached=Reached.UNREACHABLE,
        detail="Connection refused",
        envoy=GONE,
        no_handshake="finance/payments-0 does not take connections at its tunnel port 15007",
    ),
    "foreign-server": found(
        question={"destination": "legacy/cron"},
        route={"service": None, "address": "10.0.0.2", "service_ports": (80, 443)},
        client={
            "destination": "legacy/cron",
            "tunnel": False,
            "expected": None,
            "why": FOREIGN_SERVER["why"],
        },
        server=FOREIGN_SERVER,
        no_handshake=f"there is no tunnel: {FOREIGN_SERVER['why']}",
    ),
}


def rendered(findings: Findings, *, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=100, highlight=False, force_terminal=terminal)
    console.print(render_trace(report(findings)))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_rendering_reads_as_its_golden(name: str) -> None:
    assert rendered(RENDERINGS[name]) == (GOLDEN / f"{name}.txt").read_text("utf-8")


def test_every_golden_is_a_rendering() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(RENDERINGS)


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_rendering_loses_nothing_on_a_narrow_terminal(name: str) -> None:
    assert_whole(render_trace(report(RENDERINGS[name])))


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_rendering_is_coloured_for_terminals_only(name: str) -> None:
    assert "\x1b" not in rendered(RENDERINGS[name])
    assert "\x1b" in rendered(RENDERINGS[name], terminal=True)


def test_what_a_server_says_is_neither_markup_nor_control_characters() -> None:
    findings = found(reported=event(Outcome.PLAINTEXT))
    hostile = replace(findings.attempt, reply="[bold]x[/] \x1b[31m{how}\r\nmore")
    findings = replace(findings, attempt=hostile)
    assert ": [bold]x[/] \N{REPLACEMENT CHARACTER}[31m{how}\n" in rendered(findings)
