"""`troth audit`, and how it reads: who connected to whom, who is ready, what could be applied."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.text import Text

from troth.cli.asked import asked_mesh, tell_unanswered
from troth.cli.console import Output, OutputOption, coloured, err, moment, print_json, print_tables
from troth.cli.options import (
    TIMEOUT_SECONDS,
    TROTH_NAMESPACE,
    AllNodesOption,
    AskedNamespaceOption,
    ContextOption,
    KubeconfigOption,
    TimeoutOption,
    TrothNamespaceOption,
)
from troth.cli.policies import VERDICTS, commented, manifest_yaml
from troth.errors import EnvironmentLackError, InputError, Problem
from troth.explain.audit_report import Audit, PortState
from troth.explain.front_doors import Breakage
from troth.explain.workloads import listed
from troth.rows import Rows
from troth.traffic.tally import KEPT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from troth.explain.audit_report import Audit, Client, Pair, PortAudit, Proposal, WorkloadAudit

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_COLOURS = {
    PortState.STRICT: "green",
    PortState.READY: "green",
    PortState.PLAINTEXT: "yellow",
    PortState.FRONT_DOOR: "yellow",
    PortState.LEFT_OPEN: "green",
    PortState.NO_TRAFFIC: "dim",
    PortState.DISABLED: "yellow",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("audit")(audit_command)


def audit_command(
    ctx: typer.Context,
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="How far to look back, such as 30m, 1h or 7d (the most)."
        ),
    ] = "1h",
    write_policy: Annotated[
        Path | None,
        typer.Option(
            help="Write PeerAuthentications that refuse nobody who was seen into this directory.",
            metavar="DIR",
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="Don't ask before writing where the running mesh takes policies from.",
        ),
    ] = False,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: AskedNamespaceOption = None,
    all_nodes: AllNodesOption = False,
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    troth_namespace: TrothNamespaceOption = TROTH_NAMESPACE,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show who connected to whom, and which workloads are ready for STRICT or why not.

    In a cluster it is about one namespace. The exit code is 0 when every workload in the mesh is
    ready, and 1 when one is not, or when a node of a cluster didn't answer.
    """
    seconds = _duration(since).total_seconds()
    mesh = asked_mesh(
        ctx,
        context=context,
        kubeconfig=kubeconfig,
        namespace=namespace,
        home=troth_namespace,
        everywhere=all_nodes,
        seconds=timeout,
    )
    report = mesh.audit(seconds=seconds)
    if output is Output.JSON:
        print_json(report)
    else:
        print_tables(render_audit(report))
    tell_unanswered(report.unanswered)
    if write_policy is not None:
        if report.policies and not yes:
            _ask_first(write_policy, mesh.followed())
        _write(report, write_policy)
    return 0 if report.ready else 1


def _ask_first(directory: Path, followed: Iterable[Path]) -> None:
    """Ask whether to write where the mesh would put it in force at once.

    Raises:
        typer.Abort: The answer is no, or nobody is there to give one.
    """
    target = directory.resolve()
    if any(target.is_relative_to(each) for each in followed):
        err.print(
            f"[yellow]{escape(str(directory))} is followed by the running mesh:[/yellow] what is "
            "written there is in force at once (--yes doesn't ask)",
            soft_wrap=True,
        )
        typer.confirm("Write the policies there?", abort=True, err=True)


def _write(report: Audit, directory: Path) -> None:
    for path in write_policies(report, directory):
        err.print(f"[green]wrote[/green] {escape(str(path))}", soft_wrap=True)
    for each in report.left_out:
        err.print(
            f"[yellow]no policy for {escape(each.workload)}:[/yellow] {escape(each.why)}",
            soft_wrap=True,
        )
    if not report.policies and not report.left_out:
        err.print("nothing to write: all is STRICT")


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration: write it as 90s, 30m, 1h or 7d")
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if duration > KEPT:
        raise typer.BadParameter(f"{text} is longer than connections are remembered: at most 7d")
    return duration


def write_policies(audit: Audit, directory: Path) -> list[Path]:
    """Write one file for each proposal; nothing is overwritten, and it is all or nothing.

    Raises:
        InputError: A file is there already.
        EnvironmentLackError: The directory can't be written to.
    """
    files = {directory / _file_name(each): _file_text(each, audit) for each in audit.policies}
    _refuse_existing(path for path in files if os.path.lexists(path))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError as error:
        _refuse_existing([Path(error.filename)])
    except OSError as error:
        raise EnvironmentLackError(
            f"cannot write {error.filename}: {error.strerror}", "name another directory"
        ) from error
    return list(files)


def _refuse_existing(existing: Iterable[Path]) -> None:
    problems = [
        Problem(
            subject=str(path),
            path="",
            found="exists already",
            wanted="remove it, or write to an empty directory",
        )
        for path in existing
    ]
    if problems:
        raise InputError(problems)


def _file_name(proposal: Proposal) -> str:
    metadata = proposal.manifest["metadata"]
    return f"{metadata['namespace']}.{metadata['name']}.yaml"


def _file_text(proposal: Proposal, audit: Audit) -> str:
    seen_since = max(audit.since, audit.complete_since).isoformat(timespec="seconds")
    came = "All that was seen came by the tunnel"
    but = ", but at the ports below" if proposal.exceptions else ""
    outside = ""
    if audit.outside and proposal.verdict is Breakage.POSSIBLE:
        outside = f" Outside the mesh: {listed(audit.outside)}."
    comments = [
        f"{came} since {seen_since}{but}.",
        f"Breaks: {proposal.verdict}.{outside}",
        f"Makes STRICT: {', '.join(proposal.workloads)}.",
        *(f"Left as it is: {why}." for why in proposal.exceptions.values()),
    ]
    return commented(comments) + manifest_yaml(proposal)


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
