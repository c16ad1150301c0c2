"""`troth events`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from troth.cli._cluster import ContextOption, KubeconfigOption, chosen_cluster
from troth.cli._console import Output, OutputOption, err, out, print_json
from troth.cli._reviews import (
    TIMEOUT_SECONDS,
    TROTH_NAMESPACE,
    AllNodesOption,
    AskedNamespaceOption,
    Asking,
    TimeoutOption,
    TrothNamespaceOption,
    ask_events,
    tell_unanswered,
)
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
    ctx: typer.Context,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on with what comes; of this machine's mesh only."),
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

    In a cluster it shows those of the pods of one namespace. With -o json, one object per line. The
    exit code is 0, or 1 when a node of a cluster didn't answer.
    """
    cluster = chosen_cluster(ctx, context=context, kubeconfig=kubeconfig, namespace=namespace)
    if cluster is None:
        for answer in call(StateDirectory().control, "events", follow=follow):
            _print(msgspec.convert(answer, Connection), output)
        return 0
    if follow:
        raise typer.BadParameter("--follow is for the mesh on this machine; ask a cluster again")
    asking = Asking(cluster, troth_namespace, everywhere=all_nodes, seconds=timeout)
    answers, unanswered = ask_events(asking)
    seen = (each.connection for answer in answers for each in answer.events)
    for connection in sorted(seen, key=lambda each: each.time):
        _print(connection, output)
    if left_out := sum(each.left_out for each in answers):
        err.print(f"[yellow]{left_out} older ones are left out[/yellow]", soft_wrap=True)
    tell_unanswered(unanswered)
    return 1 if unanswered else 0


def _print(connection: Connection, output: Output) -> None:
    if output is Output.JSON:
        print_json({"schema": "troth/event/v1", **msgspec.to_builtins(connection)}, indent=0)
    else:
        out.print(describe(connection), soft_wrap=True)


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
    return escape(party.pod or party.workload or party.address)
