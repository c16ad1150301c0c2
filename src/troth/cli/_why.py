"""`troth why`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Group
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from troth.cli._console import Output, OutputOption, moment, out, print_json
from troth.explain import Why
from troth.local import StateDirectory, call

if TYPE_CHECKING:
    from rich.console import RenderableType

    from troth.explain import Refusal


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("why")(why_command)


def why_command(
    about: Annotated[
        str | None,
        typer.Argument(
            help="Only what this pod, workload or service took part in.",
            metavar="[NAMESPACE/WORKLOAD]",
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="How many to show.", min=1, max=1000)] = 10,
    output: OutputOption = Output.TEXT,
) -> int:
    """Say why the last connections were refused or failed, and what to do about each.

    The newest come first; those that failed alike are one, with a count. The exit code is 0.
    """
    (answer,) = call(StateDirectory().control, "why", about=about, count=count)
    report = msgspec.convert(answer, Why)
    if output is Output.JSON:
        print_json(report)
    else:
        out.print(render_why(report), soft_wrap=True)
    return 0


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
    for refusal in report.refusals:
        parts.append(Text.from_markup(_headline(refusal)))
        parts.append(Padding(Text(f"{refusal.cause} {refusal.remedy}"), (0, 0, 0, 2), expand=False))
    if not report.refusals:
        since = moment(report.complete_since)
        parts.append(f"Nothing was refused and nothing failed since {since}.")
    return Group(*parts)


def _headline(refusal: Refusal) -> str:
    source, destination = refusal.source, f"{refusal.destination}:{refusal.port}"
    if source != refusal.source_address:
        source += f" ({refusal.source_address})"
    times = ""
    if refusal.count > 1:
        times = f" {refusal.count} times since {moment(refusal.first)}"
    return (
        f"{escape(source)} → {escape(destination)} at {moment(refusal.last)}: "
        f"[red]{refusal.outcome}[/red]{times}."
    )
