"""How a trace reads: who connects to whom, what both ends decide, what happened, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from troth.connect.findings import Reached
from troth.connect.report import Hop
from troth.connect.traced import Credentials
from troth.envoy.ports import INBOUND_PORT, OUTBOUND_PORT, TUNNEL_PORT
from troth.handshake.render import decision_rows, render_report
from troth.traffic.connection import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from troth.connect.report import Diagnosis
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
