"""`troth check`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from troth.cli.console import Output, OutputOption, counted, print_json, print_tables
from troth.cli.options import ClusterContextOption, ClusterKubeconfigOption
from troth.errors import Severity
from troth.mesh.world import DEFAULT_HOME

if TYPE_CHECKING:
    from rich.console import RenderableType

    from troth.check.judge import Check, Finding

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("check")(check)


def check(
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            "--namespace",
            "-n",
            help="A namespace to look at as if it were in the mesh already; may be repeated.",
        ),
    ] = None,
    kubeconfig: ClusterKubeconfigOption = None,
    context: ClusterContextOption = None,
    home: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE", help="The namespace that troth is, or is to be, installed in."
        ),
    ] = DEFAULT_HOME,
    machine: Annotated[
        bool, typer.Option("--machine", help="Look at this machine instead of a cluster.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Say what a cluster lacks for troth, before or after it is installed.

    Nothing is changed. The exit code is 0 when nothing is in the way (warnings apart), and 1 when
    something is.
    """
    # The client of the Kubernetes API takes long to load.
    from troth.check.gather import gather_cluster, gather_machine  # noqa: PLC0415
    from troth.check.judge import judge_cluster, judge_machine  # noqa: PLC0415
    from troth.kube.config import cluster_config  # noqa: PLC0415

    if machine and (namespace or kubeconfig or context):
        raise typer.BadParameter("--machine is about no cluster")
    if machine:
        report = judge_machine(gather_machine())
    else:
        config = cluster_config(kubeconfig, context)
        facts = asyncio.run(gather_cluster(config, wanted=namespace or (), home=home))
        report = judge_cluster(facts)
    if output is Output.JSON:
        print_json(report)
    else:
        print_tables(render_check(report))
    return 1 if report.errors else 0


def render_check(report: Check) -> RenderableType:
    """All of it, for people."""
    parts: list[RenderableType] = [f"{escape(report.subject)}, {escape(report.version)}"]
    for finding in report.findings:
        parts.append(Text.from_markup(_headline(finding)))
        parts.append(Padding(Text(f"{finding.why} {finding.remedy}"), (0, 0, 0, 2), expand=False))
    parts.append(_sum(report))
    return Group(*parts)


def _headline(finding: Finding) -> str:
    colour = _COLOURS[finding.severity]
    return f"[{colour}]{finding.severity}:[/] {escape(finding.where)} {escape(finding.what)}."


def _sum(report: Check) -> str:
    warnings = len(report.findings) - report.errors
    noted = f" ({counted(warnings, 'warning')})" if warnings else ""
    if report.errors:
        return f"[red]{counted(report.errors, 'error')}[/red]{noted}"
    return f"[green]Nothing is in the way.[/green]{noted}"
