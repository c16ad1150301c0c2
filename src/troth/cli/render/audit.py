"""How an audit reads: who connected to whom, who is ready for STRICT, what could be applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.text import Text

from troth.cli.console import coloured, moment
from troth.cli.render.plan import VERDICTS
from troth.explain.audit_report import PortState
from troth.explain.front_doors import Breakage
from troth.explain.workloads import listed
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from troth.explain.audit_report import Audit, Client, Pair, PortAudit, WorkloadAudit

_COLOURS = {
    PortState.STRICT: "green",
    PortState.READY: "green",
    PortState.PLAINTEXT: "yellow",
    PortState.FRONT_DOOR: "yellow",
    PortState.LEFT_OPEN: "green",
    PortState.NO_TRAFFIC: "dim",
    PortState.DISABLED: "yellow",
}


def render_audit(audit: Audit) -> RenderableType:
    """Everything of an audit, for people."""
    parts: list[RenderableType] = []
    if audit.complete_since > audit.since:
        parts += [
            f"[yellow]Connections are only known since {moment(audit.complete_since)}.[/yellow]",
            "",
        ]
    parts += [_pairs(audit.pairs) if audit.pairs else "Nobody connected to anybody.", ""]
    if audit.workloads:
        parts += [_workloads(audit.workloads), ""]
    ready = sum(workload.ready for workload in audit.workloads)
    if not audit.workloads:
        parts.append("No workload is in the mesh.")
    else:
        parts.append(_conclusion(audit, ready))
    return Group(*(Text.from_markup(part) if isinstance(part, str) else part for part in parts))


def _conclusion(audit: Audit, ready: int) -> str:
    """What was seen, and the verdict that `troth plan` has on STRICT for all."""
    seen = "" if audit.verdict is Breakage.NONE else " by what was seen"
    said = f"{ready} of {len(audit.workloads)} workloads are ready for STRICT{seen}."
    if ready == len(audit.workloads):
        said = f"Every workload is ready for STRICT{seen}, or has it."
    colour, meaning = VERDICTS[audit.verdict]
    parts = [f"[{colour}]Breaks: {audit.verdict}.[/]"]
    if meaning:
        parts.append(f"With STRICT, {meaning}.")
        if audit.outside:
            parts.append(f"Outside the mesh: {escape(listed(audit.outside))}.")
    lacking = [f"[yellow]Can't be read:[/yellow] {escape(str(each))}" for each in audit.problems]
    return "\n".join((*lacking, said, " ".join(parts)))


def _pairs(pairs: Sequence[Pair]) -> Rows:
    rows = Rows("FROM", "TO", "TUNNEL", "PLAINTEXT", "REFUSED", "LAST")
    for pair in pairs:
        rows.add_row(
            escape(pair.source),
            escape(f"{pair.destination}:{pair.port}"),
            f"[green]{pair.tunnel}[/green]" if pair.tunnel else "",
            f"[yellow]{pair.plaintext}[/yellow]" if pair.plaintext else "",
            f"[red]{pair.refused}[/red]" if pair.refused else "",
            moment(pair.last),
        )
    return rows


def _workloads(workloads: Sequence[WorkloadAudit]) -> Rows:
    rows = Rows("WORKLOAD", "PORT", "MODE", "READY", "BECAUSE")
    for workload in workloads:
        name = escape(workload.key)
        if not workload.captured:
            why = escape(f"not captured: {workload.why}")
            rows.add_row(name, "", coloured(workload.mode), "[red]no[/red]", why)
            name = ""
        elif not workload.ports:
            because = "no port is known that it listens on"
            rows.add_row(name, "", coloured(workload.mode), "[green]yes[/green]", because)
        for number, port in workload.ports.items():
            answer = "yes" if port.state.is_ready else "no"
            rows.add_row(
                name,
                str(number),
                coloured(port.mode),
                f"[{_COLOURS[port.state]}]{answer}[/]",
                escape(_because(port)),
            )
            name = ""
    return rows


def _because(port: PortAudit) -> str:
    match port.state:
        case PortState.STRICT | PortState.DISABLED:
            return f"is {port.mode} by {port.decided_by}"
        case PortState.READY:
            return "all by the tunnel"
        case PortState.NO_TRAFFIC:
            return "no traffic"
        case PortState.FRONT_DOOR:
            led = (f"{each}: {each.clients}" for each in port.front_doors)
            return "\n".join((*led, *_seen(port.because_of)))
        case PortState.LEFT_OPEN:
            doors = ", ".join(map(str, port.front_doors))
            return f"{port.decided_by} leaves it open for {doors}"
        case PortState.PLAINTEXT:
            return "\n".join(_seen(port.because_of))


def _seen(clients: Iterable[Client]) -> Iterator[str]:
    for each in clients:
        yield f"{each.source}, {each.count} in plaintext, last {moment(each.last)}"
