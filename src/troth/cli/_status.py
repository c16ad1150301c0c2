"""`troth status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from rich.markup import escape

from troth.cli._console import Output, OutputOption, coloured, out, print_json, table
from troth.errors import Severity
from troth.local import MeshStatus, StateDirectory, call

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("status")(status)


def status(output: OutputOption = Output.TEXT) -> int:
    """Show each pod: identity, mode of every port, certificate, captured or why not.

    The exit code is 0 when all is as it should be, and 1 when something is missing or refused.
    """
    (answer,) = call(StateDirectory().control, "status")
    mesh = msgspec.convert(answer, MeshStatus, strict=False)
    if output is Output.JSON:
        print_json(mesh)
    else:
        _print(mesh)
    refused = any(problem.severity is Severity.ERROR for problem in mesh.problems)
    return 0 if mesh.ready and not refused else 1


def _print(mesh: MeshStatus) -> None:
    rows = table("POD", "PHASE", "READY", "CAPTURED", "MODE", "DECIDED BY", "IDENTITY", "CERT")
    now = datetime.now(UTC)
    for pod in mesh.pods:
        rows.add_row(
            f"{pod.namespace}/{pod.name}",
            pod.phase,
            "yes" if pod.ready else "no",
            "yes" if pod.captured else "no",
            coloured(pod.mode) if pod.mode else "",
            str(pod.decided_by) if pod.decided_by else "",
            escape(pod.identity)
            if pod.identity and pod.captured
            else f"[dim]{escape(pod.why)}[/dim]",
            _left(pod.certificate_expires, now),
        )
        for number, port in pod.ports.items():
            if (port.mode, port.decided_by) != (pod.mode, pod.decided_by):
                rows.add_row(
                    f"  port {number}", "", "", "", coloured(port.mode), str(port.decided_by)
                )
    out.print(rows)
    for refused in mesh.envoy.refused:
        out.print(f"[red]refused by Envoy:[/red] {escape(refused)}", soft_wrap=True)
    for problem in mesh.problems:
        out.print(f"[yellow]{problem.severity}:[/yellow] {escape(str(problem))}", soft_wrap=True)
    for blocker in mesh.waiting_for:
        out.print(f"[yellow]waiting for[/yellow] {escape(blocker)}", soft_wrap=True)


def _left(until: datetime | None, now: datetime) -> str:
    if until is None:
        return ""
    minutes = int((until - now).total_seconds() // 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m"  # noqa: PLR2004
