"""`troth why`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from troth.cli.asked import asked_mesh, full_name, tell_unanswered
from troth.cli.console import Output, OutputOption, moment, print_json, print_tables
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
from troth.explain.why import Why

if TYPE_CHECKING:
    from rich.console import RenderableType

    from troth.explain.why import Refusal


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("why")(why_command)


def why_command(
    ctx: typer.Context,
    about: Annotated[
        str | None,
        typer.Argument(
            help="Only what this pod, workload or service took part in.",
            metavar="[NAMESPACE/WORKLOAD]",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(metavar="NUMBER", help="How many to show.", min=1, max=1000)
    ] = 10,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: AskedNamespaceOption = None,
    all_nodes: AllNodesOption = False,
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    troth_namespace: TrothNamespaceOption = TROTH_NAMESPACE,
    output: OutputOption = Output.TEXT,
) -> int:
    """Say why the last connections were refused or failed, and what to do about each.

    The newest come first; those that failed alike are one, with a count. In a cluster it is about
    the pods of one namespace. The exit code is 0, or 1 when a node of a cluster didn't answer.
    """
    mesh = asked_mesh(
        ctx,
        context=context,
        kubeconfig=kubeconfig,
        namespace=namespace,
        home=troth_namespace,
        everywhere=all_nodes,
        seconds=timeout,
    )
    report = mesh.why(about and full_name(about, mesh.namespace), most=count)
    if output is Output.JSON:
        print_json(report)
    else:
        print_tables(render_why(report))
    tell_unanswered(report.unanswered)
    return 1 if report.unanswered else 0


def render_why(report: Why) -> RenderableType:
    """All of it, for people."""
    parts: list[RenderableType] = [
        Text.from_markup(f"[yellow]{escape(each.pod)} is not captured:[/yellow] {escape(each.why)}")
        for each in report.not_captured
    ]
    parts += [
        Text.from_markup(f"[yellow]Envoy refuses[/yellow] {escape(each)}")
        for each in report.refused_by_envoy
    ]
    for conflict in report.conflicts:
        parts.append(
            Text.from_markup(f"[yellow]{escape(conflict.where)} {escape(conflict.what)}.[/yellow]")
        )
        parts.append(Padding(Text(f"{conflict.why} {conflict.remedy}"), (0, 0, 0, 2), expand=False))
    shown: set[str] = set()  # many clients of one port need the same
    for refusal in report.refusals:
        parts.append(Text.from_markup(_headline(refusal)))
        parts.append(Padding(Text(f"{refusal.cause} {refusal.remedy}"), (0, 0, 0, 2), expand=False))
        if refusal.manifests and refusal.manifests not in shown:
            shown.add(refusal.manifests)
            text = Text(refusal.manifests.rstrip(), style="cyan")
            parts.append(Padding(text, (0, 0, 0, 6), expand=False))
    if not report.refusals:
        since = moment(report.complete_since)
        parts.append(f"Nothing was refused and nothing failed since {since}.")
    return Group(*parts)


def _headline(refusal: Refusal) -> str:
    source, destination = refusal.source, refusal.destination
    if refusal.port:
        destination += f":{refusal.port}"
    if refusal.source_address and source != refusal.source_address:
        source += f" ({refusal.source_address})"
    times = ""
    if refusal.count > 1:
        times = f" {refusal.count} times since {moment(refusal.first)}"
    return (
        f"{escape(source)} → {escape(destination)} at {moment(refusal.last)}: "
        f"[red]{refusal.outcome}[/red]{times}."
    )
