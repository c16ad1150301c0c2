"""`troth events`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from troth.cli._console import Output, OutputOption, out, print_json
from troth.local import StateDirectory, call
from troth.mesh import Connection, Outcome

if TYPE_CHECKING:
    from troth.mesh import Party

_COLOURS = {
    Outcome.ACCEPTED: "green",
    Outcome.PLAINTEXT: "yellow",
    Outcome.REFUSED: "red",
    Outcome.FAILED: "magenta",
}
_WIDTH = max(map(len, Outcome))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("events")(events)


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show connections: accepted by the tunnel, passed in plaintext, refused, and why.

    With -o json, one object per line.
    """
    for answer in call(StateDirectory().control, "events", follow=follow):
        if output is Output.JSON:
            print_json({"schema": "troth/event/v1", **answer}, indent=0)
        else:
            out.print(describe(msgspec.convert(answer, Connection)), soft_wrap=True)
    return 0


def describe(connection: Connection) -> str:
    """One line of rich markup about a connection."""
    outcome, destination = connection.outcome, connection.destination
    time = connection.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
    parts = [
        f"[dim]{time}[/dim]",
        f"[{_COLOURS[outcome]}]{outcome:<{_WIDTH}}[/]",
        f"{_name(connection.source)} → {_name(destination)}:{destination.port}",
    ]
    if connection.peer:
        parts.append(
            f"[dim]{escape(connection.peer)} {connection.tls_version} {connection.tls_group}[/dim]"
        )
    if outcome in {Outcome.REFUSED, Outcome.FAILED}:
        parts.append(escape(str(connection.reason).replace("_", " ")))
        if connection.claimed_peer:
            parts.append(f"[dim](claimed to be {escape(connection.claimed_peer)})[/dim]")
    if connection.mode and not connection.peer:
        parts.append(f"[dim]{connection.mode} by {escape(str(connection.decided_by))}[/dim]")
    return "  ".join(parts)


def _name(party: Party) -> str:
    return escape(party.pod or party.address)
