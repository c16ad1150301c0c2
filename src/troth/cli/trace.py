"""`troth trace`, and how it reads: who connects to whom, what both decide, what happened, why."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from troth.cli.asked import asked_mesh, full_name
from troth.cli.console import Output, OutputOption, print_json, print_report
from troth.cli.options import (
    TIMEOUT_SECONDS,
    TROTH_NAMESPACE,
    AskedNamespaceOption,
    ContextOption,
    KubeconfigOption,
    TimeoutOption,
    TrothNamespaceOption,
)
from troth.connect.findings import Reached
from troth.connect.report import Credentials, Hop, TraceQuestion
from troth.errors import InputError, Problem
from troth.handshake.record import TlsRole, Verdict
from troth.handshake.steps import CertificateStatus, ConnectionStatus
from troth.mesh.ports import INBOUND_PORT, OUTBOUND_PORT, TUNNEL_PORT
from troth.mesh.target import target_key
from troth.traffic.connection import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from troth.connect.report import Diagnosis
    from troth.handshake.steps import TraceReport
    from troth.mesh.decisions import ClientDecision, ServerDecision
    from troth.traffic.connection import Connection

_LAST_PORT = 65535
_COLOURS = {
    Outcome.ACCEPTED: "bold green",
    Outcome.PLAINTEXT: "bold yellow",
    Outcome.REFUSED: "bold red",
    Outcome.FAILED: "bold magenta",
}
_VERDICTS = {
    Outcome.ACCEPTED: "accepted by the tunnel",
    Outcome.PLAINTEXT: "accepted in plaintext",
    Outcome.REFUSED: "refused",
    Outcome.FAILED: "failed",
}
_HOPS = {
    Hop.CLIENT_PROXY: f"at the client's proxy, port {OUTBOUND_PORT} in its pod",
    Hop.NETWORK: "on the way: nobody took the connection",
    Hop.TUNNEL: f"in the tunnel, port {TUNNEL_PORT} of the server's pod",
    Hop.SERVER_PROXY: f"at the server's proxy, port {INBOUND_PORT} in its pod",
    Hop.APP: "at the server's app",
}
_SHOWN_OF_REPLY = 60
# A SPIFFE ID is wider than its column; this is where it reads best in two lines.
_BEFORE_PATH = re.compile(r"(spiffe://[^/\s]+)(/\S+)")

_GOOD, _BAD, _UNDER_WAY = "green", "bold red", "yellow"
_STYLES: dict[str, str] = {
    Verdict.ACCEPTED: _GOOD,
    Verdict.REFUSED: _BAD,
    Verdict.UNDECIDED: _UNDER_WAY,
    CertificateStatus.REQUESTED: _UNDER_WAY,
    CertificateStatus.SENT: _UNDER_WAY,
    CertificateStatus.TRUSTED: _GOOD,
    CertificateStatus.VERIFIED: _GOOD,
    CertificateStatus.WITHHELD: _BAD,
    ConnectionStatus.NEGOTIATING: _UNDER_WAY,
    ConnectionStatus.ENCRYPTED: _UNDER_WAY,
    ConnectionStatus.SERVER_AUTHENTICATED: _UNDER_WAY,
    ConnectionStatus.ESTABLISHED: _GOOD,
}
# The least width that a table of steps needs: with the results beside the steps, or below them.
_COLUMNS_BESIDE, _COLUMNS_BELOW = 96, 70
_ACTORS = {TlsRole.CLIENT: "cyan", TlsRole.SERVER: "magenta"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("trace")(trace)


def trace(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM", help="Who connects: NAMESPACE/POD, or NAMESPACE/DEPLOYMENT for one."
        ),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="TO:PORT",
            help="To whom: NAMESPACE/NAME of a Service, pod or Deployment, or an IP; IPv6 in [].",
        ),
    ],
    plaintext: Annotated[
        bool,
        typer.Option("--plaintext", help="Connect past the tunnel, as a pod outside the mesh."),
    ] = False,
    no_certificate: Annotated[
        bool, typer.Option("--no-certificate", help="Show no certificate in the handshake.")
    ] = False,
    expired: Annotated[
        bool, typer.Option("--expired", help="Show a certificate that has expired.")
    ] = False,
    foreign_ca: Annotated[
        bool, typer.Option("--foreign-ca", help="Show a certificate of another CA.")
    ] = False,
    claim: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE/NAME",
            help="Whose identity that certificate claims: a pod's, or in a cluster a service "
            "account's. By default FROM's own.",
        ),
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: AskedNamespaceOption = None,
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    troth_namespace: TrothNamespaceOption = TROTH_NAMESPACE,
    output: OutputOption = Output.TEXT,
) -> int:
    """Make one connection and trace one handshake: what both ends decide, and where it stops.

    The connection is made from FROM's network namespace, as its app would. The handshake is made
    beside it, with the pod's own certificate, or with what an impostor would show. The exit code
    is 0 when it was let in, and 1 when it was refused or failed.
    """
    flags = {
        "--plaintext": plaintext,
        "--no-certificate": no_certificate,
        "--expired": expired,
        "--foreign-ca": foreign_ca,
    }
    given = [flag for flag, is_given in flags.items() if is_given]
    mesh = asked_mesh(
        ctx,
        context=context,
        kubeconfig=kubeconfig,
        namespace=namespace,
        home=troth_namespace,
        seconds=timeout,
    )
    if expired and not mesh.has_authority:
        raise typer.BadParameter(
            "--expired needs the key of the mesh's own authority, which no agent of a cluster "
            "has; --foreign-ca and --no-certificate don't"
        )
    question = read_question(
        full_name(source, mesh.namespace),
        full_destination(destination, mesh.namespace),
        given,
        claim=claim and full_name(claim, mesh.namespace),
    )
    diagnosis = mesh.trace(question)
    if output is Output.JSON:
        print_json(diagnosis)
    else:
        print_report(render_trace(diagnosis))
    return 0 if diagnosis.passed else 1


def full_destination(destination: str, namespace: str | None) -> str:
    """TO:PORT with a namespace, if it is a name without one."""
    name, _, port = destination.rpartition(":")
    if namespace is None or not name or name[0] == "[":
        return destination
    return f"{target_key(name, namespace)}:{port}"


def read_question(
    source: str, destination: str, flags: list[str], *, claim: str | None = None
) -> TraceQuestion:
    """Make sense of the command line.

    Args:
        source: FROM.
        destination: TO:PORT.
        flags: Those of the four ways to connect that were given.
        claim: Whose identity a forged certificate claims.

    Raises:
        InputError: It makes none; every problem is listed.
    """
    name, _, port = destination.rpartition(":")
    name = name.removeprefix("[").removesuffix("]")
    problems = [
        *_problems_of_name("FROM", source),
        *_problems_of_destination(destination, name, port),
        *_problems_of_flags(flags, claim),
    ]
    if claim is not None:
        problems += _problems_of_name("--claim", claim)
    if problems:
        raise InputError(problems)
    shown = {
        "--no-certificate": Credentials.NONE,
        "--expired": Credentials.EXPIRED,
        "--foreign-ca": Credentials.FOREIGN_CA,
    }
    flag = flags[0] if flags else ""
    return TraceQuestion(
        source=source,
        destination=name,
        port=int(port),
        past_tunnel=flag == "--plaintext",
        credentials=shown.get(flag, Credentials.OWN),
        claim=claim,
    )


def _problems_of_name(subject: str, name: str) -> Iterator[Problem]:
    namespace, slash, own = name.partition("/")
    if not (namespace and slash and own) or "/" in own:
        yield _problem(subject, f"{name!r} is no NAMESPACE/NAME", "name a pod or a Deployment so")


def _problems_of_destination(text: str, name: str, port: str) -> Iterator[Problem]:
    if not name:
        yield _problem("TO:PORT", f"{text!r} has no port", f"append one, as in {text}:8080")
    elif not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= _LAST_PORT):
        wanted = f"give a number from 1 to {_LAST_PORT}"
        yield _problem("TO:PORT", f"{port!r} in {text!r} is not a port", wanted)


def _problems_of_flags(flags: list[str], claim: str | None) -> Iterator[Problem]:
    if len(flags) > 1:
        yield _problem(" and ".join(flags), "are different connections", "give one of them")
    if claim is not None and not {"--expired", "--foreign-ca"}.intersection(flags):
        wanted = "give --expired or --foreign-ca, too"
        yield _problem("--claim", "only a forged certificate claims an identity", wanted)


def _problem(subject: str, found: str, wanted: str) -> Problem:
    return Problem(subject=subject, path="", found=found, wanted=wanted)


def render_trace(diagnosis: Diagnosis) -> RenderableType:
    """All of it, for people."""
    title = f"{diagnosis.source.name} → {diagnosis.to.name}:{diagnosis.to.port}"
    return Group(
        Text(title, style="bold"),
        _grid(_facts(diagnosis)),
        "",
        *_handshake(diagnosis),
        "",
        _conclusion(diagnosis),
    )


def _facts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    source = diagnosis.source
    if source.captured:
        yield "from", f"{source.pod}, in the mesh as {source.identity}"
    else:
        what = "in the mesh, but not captured" if source.in_mesh else "not in the mesh"
        yield "from", f"{source.pod}, {what}: {source.why}"
    yield "to", _destination(diagnosis)
    if diagnosis.client and diagnosis.server:
        yield from decision_rows(diagnosis.client, diagnosis.server)
    yield "connection", _connection(diagnosis)
    if diagnosis.connection.event:
        yield "", _reported(diagnosis.connection.event)


def _destination(diagnosis: Diagnosis) -> str:
    to, client = diagnosis.to, diagnosis.client
    dialled = f"{_host(to.address)}:{to.port}"
    if to.service is None:
        pod = client.destination if client else None
        text = f"{dialled}, {pod or 'no pod of the mesh'}"
        if to.service_ports and to.port not in to.service_ports:
            ports = ", ".join(map(str, to.service_ports))
            text += f" (not by Service {to.name}, which has {ports})"
        return text
    text = f"{dialled}, Service {to.service}"
    if client is None:
        return f"{text}: no ready pod is behind it"
    led = f"{client.destination or 'no pod of the mesh'} at {_host(client.address)}:{client.port}"
    one_of = f", one of {to.endpoints}" if to.endpoints > 1 else ""
    return f"{text}: leads to {led}{one_of}"


def _connection(diagnosis: Diagnosis) -> str:
    how = "past the tunnel" if diagnosis.past_tunnel else "as its app would"
    attempt = diagnosis.connection
    saw = {
        Reached.ANSWERED: "answered",
        Reached.SILENT: "taken, and then silence",
        Reached.CLOSED: "taken, and closed without an answer",
        Reached.RESET: "reset",
        Reached.UNREACHABLE: "not taken",
    }[attempt.reached]
    detail = f" ({attempt.detail[:1].lower()}{attempt.detail[1:]})" if attempt.detail else ""
    first = attempt.reply.partition("\r\n")[0].partition("\n")[0][:_SHOWN_OF_REPLY]
    said = f": {_printable(first)}" if first else ""
    return f"made {how}: {saw} after {attempt.elapsed_ms:.1f} ms{detail}{said}"


def _reported(event: Connection) -> str:
    text = f"the {event.side}'s proxy reports: {event.outcome}"
    if event.reason != "none":
        text += f", {str(event.reason).replace('_', ' ')}"
    if event.peer:
        text += f", from {event.peer}"
    if event.tls_version:
        text += f" by {event.tls_version}"
        text += f", {event.tls_group}" if event.tls_group else ""
    return text


def _handshake(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    if diagnosis.handshake is None:
        yield Text(f"No handshake was traced: {diagnosis.no_handshake}.")
        return
    shown = diagnosis.credentials.words
    if diagnosis.credentials in {Credentials.EXPIRED, Credentials.FOREIGN_CA}:
        shown += f" that says {diagnosis.claimed}"
    yield Text(f"A handshake beside it, step by step, with {shown}", style="bold")
    yield ""
    yield render_report(diagnosis.handshake)
    if diagnosis.handshake_event:
        yield _grid([("report", _reported(diagnosis.handshake_event))])


def _conclusion(diagnosis: Diagnosis) -> RenderableType:
    rows = _grid([])
    verdict = Text(_VERDICTS[diagnosis.verdict], style=_COLOURS[diagnosis.verdict])
    if diagnosis.stopped_at:
        verdict.append(f" {_HOPS[diagnosis.stopped_at]}", style="not bold")
    rows.add_row("verdict", verdict)
    rows.add_row("cause", Text(diagnosis.cause))
    if diagnosis.remedy:
        rows.add_row("remedy", Text(diagnosis.remedy))
    if diagnosis.manifests:
        rows.add_row("apply", Text(diagnosis.manifests.rstrip(), style="cyan"))
    return rows


def _grid(rows: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=10)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(label, Text(text))
    return grid


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _printable(text: str) -> str:
    """What a stranger has sent, fit for a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _styled(value: str) -> Text:
    # Text, never markup: a result can hold what a stranger's certificate says.
    return Text(value, style=_STYLES.get(value, ""))


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )


class _Steps:
    """The process: each step with the states it leaves client and server in.

    A table of seven columns, or of six with the results below the steps; on a terminal that is
    narrower still, some lines for each step.
    """

    def __init__(self, report: TraceReport) -> None:
        self._report = report

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the form for which there is room."""
        if options.max_width >= _COLUMNS_BELOW:
            yield self._table(beside=options.max_width >= _COLUMNS_BESIDE)
        else:
            yield Text("Process", style="bold")
            yield from self._lines()

    def _table(self, *, beside: bool) -> Table:
        table = _table("Process")
        table.add_column("#", justify="right")
        table.add_column("ms", justify="right", no_wrap=True)
        table.add_column("who", no_wrap=True)
        table.add_column("does", max_width=26 if beside else None, overflow="fold")
        table.add_column("client", no_wrap=True)
        table.add_column("server", no_wrap=True)
        if beside:
            table.add_column("result", overflow="fold")
        for step in self._report.steps:
            does, result = Text(step.action), _BEFORE_PATH.sub(r"\1\n\2", step.result)
            if not beside and result:
                does.append(f"\n{result}", style="dim")
            table.add_row(
                str(step.number),
                f"{step.elapsed_ms:.1f}",
                Text(step.actor, style=_ACTORS[step.actor]),
                does,
                Text(step.client_state),
                Text(step.server_state),
                *([Text(result)] if beside else []),
            )
        return table

    def _lines(self) -> Iterator[RenderableType]:
        for step in self._report.steps:
            heading = Text(f"{step.number:>2}  {step.elapsed_ms:.1f} ms  ")
            heading.append(step.actor, style=_ACTORS[step.actor]).append(f"  {step.action}")
            yield heading
            states = Text(f"client {step.client_state}, server {step.server_state}", style="dim")
            yield Padding(Group(states, Text(step.result)), (0, 0, 0, 4))


def _tracker(report: TraceReport) -> Table:
    """The status tracker: both certificates and the connection, after each step."""
    table = _table("Status")
    table.add_column("#", justify="right")
    for title in ("client certificate", "server certificate", "connection"):
        table.add_column(title, overflow="fold")
    for row in report.tracker:
        statuses = (row.client_certificate, row.server_certificate, row.connection)
        table.add_row(str(row.step), *map(_styled, statuses))
    return table


def _judged(report: TraceReport) -> Text:
    """The verdict and its reason, and what was negotiated, in a line each."""
    handshake = report.handshake
    text = Text.assemble(_styled(report.verdict), f": {report.reason}")
    if report.stopped_at:
        text.append(f"\nstopped at  {report.stopped_at}")
    agreed = (handshake.version, handshake.cipher, handshake.group)
    if any(agreed):
        text.append(f"\nnegotiated  {', '.join(filter(None, agreed))}")
    if handshake.alpn:
        text.append(f", ALPN {handshake.alpn}")
    for owner, chain in (("client", handshake.client_chain), ("server", handshake.server_chain)):
        for facts in chain[:1]:
            text.append(f"\n{owner}      {facts.spiffe_id or facts.subject or 'no name'}")
            text.append(f"\n            issuer {facts.issuer or 'no name'}")
            text.append(f"\n            serial {facts.serial}")
            valid = f"{facts.not_before:%Y-%m-%d %H:%M:%S} to {facts.not_after:%Y-%m-%d %H:%M:%S}"
            text.append(f"\n            valid {valid} UTC")
    if handshake.sent or handshake.received:
        text.append(f"\ndata        {handshake.sent} bytes sent, {handshake.received} received")
    return text


def decision_rows(client: ClientDecision, server: ServerDecision) -> Iterator[tuple[str, str]]:
    """What both ends decide, as labelled lines."""
    yield (
        "client",
        f"{'uses the tunnel' if client.tunnel else 'connects in plaintext'}: {client.why}",
    )
    if client.expected:
        yield "", f"will talk to {client.expected} and nobody else"
    if server.mode is None:
        yield "server", f"takes what comes: {server.why}"
    else:
        takes = "takes plaintext, too" if server.plaintext else "takes the tunnel only"
        yield "server", f"{takes}: {server.mode} by {server.decided_by}"


def render_report(report: TraceReport) -> RenderableType:
    """All of a trace."""
    return Group(_Steps(report), "", _tracker(report), "", _judged(report))
