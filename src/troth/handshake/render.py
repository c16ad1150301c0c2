"""A trace for people: rich renderables for any width, plain text when piped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from troth.handshake.names import TlsRole
from troth.handshake.record import Verdict
from troth.handshake.steps import CertificateStatus, ConnectionStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from troth.handshake.steps import TraceReport
    from troth.mesh.decisions import ClientDecision, ServerDecision

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
_COLUMNS_OF_STEPS = 96
_ACTORS = {TlsRole.CLIENT: "cyan", TlsRole.SERVER: "magenta"}


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

    It is a table, and where that has no room, some lines for each step.
    """

    def __init__(self, report: TraceReport) -> None:
        self._report = report

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the form for which there is room."""
        if options.max_width >= _COLUMNS_OF_STEPS:
            yield self._table()
        else:
            yield Text("Process", style="bold")
            yield from self._lines()

    def _table(self) -> Table:
        table = _table("Process")
        table.add_column("#", justify="right")
        table.add_column("ms", justify="right", no_wrap=True)
        table.add_column("who", no_wrap=True)
        table.add_column("does", max_width=26, overflow="fold")
        table.add_column("client", no_wrap=True)
        table.add_column("server", no_wrap=True)
        table.add_column("result", overflow="fold")
        for step in self._report.steps:
            table.add_row(
                str(step.number),
                f"{step.elapsed_ms:.1f}",
                Text(step.actor, style=_ACTORS[step.actor]),
                Text(step.action),
                Text(step.client_state),
                Text(step.server_state),
                Text(_BEFORE_PATH.sub(r"\1\n\2", step.result)),
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


def _verdict(report: TraceReport) -> Text:
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
    return Group(_Steps(report), "", _tracker(report), "", _verdict(report))
