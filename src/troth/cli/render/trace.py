"""How a trace reads: who connects to whom, what both ends decide, what happened, and why."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from troth.connect.findings import Reached
from troth.connect.report import Credentials, Hop
from troth.handshake.record import TlsRole, Verdict
from troth.handshake.steps import CertificateStatus, ConnectionStatus
from troth.mesh.ports import INBOUND_PORT, OUTBOUND_PORT, TUNNEL_PORT
from troth.traffic.connection import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from troth.connect.report import Diagnosis
    from troth.handshake.steps import TraceReport
    from troth.mesh.decisions import ClientDecision, ServerDecision
    from troth.traffic.connection import Connection

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
