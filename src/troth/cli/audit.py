"""`troth audit`."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from troth.cli.asked import asked_mesh, tell_unanswered
from troth.cli.console import Output, OutputOption, err, print_json, print_tables
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
from troth.cli.render.audit import render_audit
from troth.cli.render.plan import commented, manifest_yaml
from troth.errors import EnvironmentLackError, InputError, Problem
from troth.explain.audit_report import Audit
from troth.explain.front_doors import Breakage
from troth.explain.workloads import listed
from troth.traffic.tally import KEPT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.explain.audit_report import Proposal

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("audit")(audit_command)


def audit_command(
    ctx: typer.Context,
    since: Annotated[
        str, typer.Option(help="How far to look back, such as 30m, 1h or 7d (the most).")
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
