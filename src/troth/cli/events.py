"""`troth events`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

from troth.cli.cluster import ContextOption, KubeconfigOption, chosen_cluster, is_of
from troth.cli.console import Output, OutputOption, err, out, print_json
from troth.cli.reviews import (
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
from troth.control.protocol import call
from troth.control.state_dir import StateDirectory
from troth.traffic.connection import Connection, Outcome

if TYPE_CHECKING:
    from troth.explain.why import Unanswered
    from troth.traffic.connection import Party

_PAUSE_SECONDS = 2.0
_PAUSE_SECONDS_PER_NODE = 0.1

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
    cluster = chosen_cluster(
        ctx, context=context, kubeconfig=kubeconfig, namespace=namespace, or_local=True
    )
    if cluster is None:
        for answer in call(StateDirectory().control, "events", follow=follow):
            connection = msgspec.convert(answer, Connection)
            if is_of(namespace, connection.source.workload, connection.destination.workload):
                _print(connection, output)
        return 0
    asking = Asking(cluster, troth_namespace, everywhere=all_nodes, seconds=timeout)
    return _ask_cluster(asking, output, follow=follow)


def _ask_cluster(asking: Asking, output: Output, *, follow: bool) -> int:
    """Print what the agents have seen; ask again and again, if that is wanted."""
    from troth.reviews.gather import Follower  # noqa: PLC0415 - slow to import

    follower = Follower()
    told: tuple[Unanswered, ...] = ()
    while True:
        asked = time.monotonic()
        answers, unanswered = ask_events(asking, since_seconds=follower.since_seconds(asked))
        fresh = follower.take(answers, asked=asked, complete=not unanswered)
        for connection in fresh.connections:
            _print(connection, output)
        if fresh.left_out:
            err.print(f"[yellow]{fresh.left_out} older ones are left out[/yellow]", soft_wrap=True)
        if unanswered != told:
            tell_unanswered(unanswered)
            told = unanswered
        if not follow:
            return 1 if unanswered else 0
        # Each time costs an object per node.
        time.sleep(max(_PAUSE_SECONDS, len(answers) * _PAUSE_SECONDS_PER_NODE))


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
