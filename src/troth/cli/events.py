"""`troth events`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from troth.cli.asked import asked_mesh, tell_unanswered
from troth.cli.console import Output, OutputOption, err, out, print_json
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
from troth.traffic.connection import Connection, Outcome

if TYPE_CHECKING:
    from troth.explain.why import Unanswered
    from troth.traffic.connection import Party

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
    ctx: typer.Context,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C."),
    ] = False,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: AskedNamespaceOption = None,
    all_nodes: AllNodesOption = False,
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    troth_namespace: TrothNamespaceOption = TROTH_NAMESPACE,
    output: OutputOption = Output.TEXT,
) -> int:
    """Show connections: accepted by the tunnel, passed in plaintext, refused, and why.

    In a cluster it shows those of the pods of one namespace, and follows them by asking again:
    every two seconds, or less often where many nodes are concerned. With -o json, one object per
    line. The exit code is 0, or 1 when a node of a cluster didn't answer.
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
    told: tuple[Unanswered, ...] = ()
    for heard in mesh.events(follow=follow):
        for connection in heard.connections:
            _print(connection, output)
        if heard.left_out:
            err.print(f"[yellow]{heard.left_out} older ones are left out[/yellow]", soft_wrap=True)
        if heard.unanswered != told:
            tell_unanswered(heard.unanswered)
            told = heard.unanswered
    return 1 if told else 0


def _print(connection: Connection, output: Output) -> None:
    if output is Output.JSON:
        print_json({"schema": "troth/event/v1", **msgspec.to_builtins(connection)}, indent=0)
    else:
        out.print(describe(connection), soft_wrap=True)


def describe(connection: Connection) -> str:
    """One line of rich markup about a connection."""
    outcome, destination = connection.outcome, connection.destination
    clock = connection.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
    parts = [
        f"[dim]{clock}[/dim]",
        f"[{_COLOURS[outcome]}]{outcome:<{_WIDTH}}[/]",
        f"{_name(connection.source)} → {_place(destination)}",
    ]
    if connection.peer:
        parts.append(
            f"[dim]{escape(connection.peer)} {connection.tls_version} {connection.tls_group}[/dim]"
        )
    if outcome in {Outcome.REFUSED, Outcome.FAILED}:
        times = f" ({connection.count} times)" if connection.count > 1 else ""
        parts.append(escape(str(connection.reason).replace("_", " ")) + times)
        if connection.claimed_peer:
            parts.append(f"[dim](claimed to be {escape(connection.claimed_peer)})[/dim]")
    if connection.mode and not connection.peer:
        parts.append(f"[dim]{connection.mode} by {escape(str(connection.decided_by))}[/dim]")
    if connection.traced:
        parts.append("[dim]made by troth trace[/dim]")
    return "  ".join(parts)


def _name(party: Party) -> str:
    return escape(party.pod or party.name)


def _place(party: Party) -> str:
    return f"{_name(party)}:{party.port}" if party.port else _name(party)
