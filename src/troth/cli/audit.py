"""`troth audit`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from troth.cli.cluster import ContextOption, KubeconfigOption, chosen_cluster, is_of, known_clients
from troth.cli.console import Output, OutputOption, err, print_json, print_tables
from troth.cli.render.audit import render_audit
from troth.cli.reviews import (
    TIMEOUT_SECONDS,
    TROTH_NAMESPACE,
    AllNodesOption,
    AskedNamespaceOption,
    Asking,
    TimeoutOption,
    TrothNamespaceOption,
    ask_totals,
    tell_unanswered,
)
from troth.cli.write_policies import write_policies
from troth.control.protocol import call
from troth.control.state_dir import StateDirectory
from troth.explain.audit import audit
from troth.explain.audit_report import Audit
from troth.traffic.tally import KEPT

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
    cluster = chosen_cluster(
        ctx, context=context, kubeconfig=kubeconfig, namespace=namespace, or_local=True
    )
    if cluster:
        asking = Asking(cluster, troth_namespace, everywhere=all_nodes, seconds=timeout)
        report = _of_cluster(asking, int(seconds))
    else:
        (answer,) = call(StateDirectory().control, "audit", seconds=seconds)
        report = _within(msgspec.convert(answer, Audit, strict=False), namespace)
    if output is Output.JSON:
        print_json(report)
    else:
        print_tables(render_audit(report))
    tell_unanswered(report.unanswered)
    if write_policy is not None:
        if cluster is None and report.policies and not yes:
            _ask_first(write_policy)
        _write(report, write_policy)
    return 0 if report.ready else 1


def _of_cluster(asking: Asking, seconds: int) -> Audit:
    now = datetime.now(UTC)
    seen, unanswered = ask_totals(asking, since_seconds=seconds)
    return audit(
        seen,
        since=now - timedelta(seconds=seconds),
        now=now,
        known=known_clients(asking.cluster, seen.world.root_namespace),
        unanswered=unanswered,
    )


def _within(report: Audit, namespace: str | None) -> Audit:
    """What of it is about a namespace's workloads."""
    if namespace is None:
        return report
    workloads = tuple(each for each in report.workloads if each.namespace == namespace)
    return msgspec.structs.replace(
        report,
        ready=all(each.ready for each in workloads),
        workloads=workloads,
        pairs=tuple(
            each for each in report.pairs if is_of(namespace, each.source, each.destination)
        ),
        policies=tuple(each for each in report.policies if is_of(namespace, *each.workloads)),
        left_out=tuple(each for each in report.left_out if is_of(namespace, each.workload)),
    )


def _ask_first(directory: Path) -> None:
    """Ask whether to write where the mesh would put it in force at once.

    Raises:
        typer.Abort: The answer is no, or nobody is there to give one.
    """
    target = directory.resolve()
    followed = (Path(path) for path in StateDirectory().read_settings().paths)
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
