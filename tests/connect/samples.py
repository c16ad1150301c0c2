"""What a mesh could have found out about a connection from finance/web to finance/payments:8080."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.samples import ACCEPTED, CLIENT, SERVER, WEB, handshake_record

from troth.connect.findings import Attempt, Listening, Reached, Route, Way
from troth.connect.report import Credentials, Findings, Trace, TraceQuestion
from troth.handshake.record import Verdict
from troth.handshake.steps import build_report
from troth.mesh.model import Endpoint, EnvoyStatus
from troth.traffic.connection import Connection, Outcome, Reason

OUTSIDE = "namespace legacy is not labelled troth.dev/mesh: enabled"

ROUTE = Route(
    source="finance/web-0",
    in_mesh=True,
    captured=True,
    why="namespace finance is labelled troth.dev/mesh: enabled",
    identity=WEB,
    address="10.96.0.1",
    port=8080,
    service="finance/payments",
    service_ports=(8080,),
    ways=(),
    unready=(),
)
ATTEMPT = Attempt(
    source="finance/web-0",
    source_port=1000,
    address="10.96.0.1",
    port=8080,
    reached=Reached.ANSWERED,
    reply="HTTP/1.0 200 OK\r\n\r\npaid\n",
    detail="",
    elapsed_ms=3.2,
    event=None,
)
RUNNING, GONE = (
    EnvoyStatus(connected=True, restarts=0),
    EnvoyStatus(connected=False, restarts=3),
)


def event(outcome: Outcome, reason: Reason = Reason.NONE, **changes: Any) -> Connection:
    """What a proxy reports; without a tunnel unless ``peer`` says so."""
    plain = {"peer": None, "tls_version": "", "tls_group": ""}
    return msgspec.structs.replace(ACCEPTED, outcome=outcome, reason=reason, **(plain | changes))


def handshake(
    verdict: Verdict,
    reason: str,
    *,
    credentials: Credentials = Credentials.OWN,
    reported: Connection | None = None,
) -> Trace:
    """A handshake that went as ``verdict`` says."""
    alert = "no (0)" if verdict is Verdict.REFUSED else ""
    record = handshake_record(verdict, reason, alert=alert)
    return Trace(
        client=CLIENT,
        server=SERVER,
        credentials=credentials,
        claimed=None if credentials is Credentials.NONE else WEB,
        source_port=1001,
        report=build_report(record),
        event=reported,
    )


def found(
    *,
    reached: Reached = Reached.ANSWERED,
    reported: Connection | None = None,
    detail: str = "",
    question: dict[str, Any] | None = None,
    route: dict[str, Any] | None = None,
    client: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    endpoints: bool = True,
    **found_out: Any,
) -> Findings:
    """Findings that differ from a good connection (of which nothing is reported) in some ways."""
    replace = msgspec.structs.replace
    way = Way(client=replace(CLIENT, **(client or {})), server=replace(SERVER, **(server or {})))
    ways = (way,) if endpoints else ()
    asked: dict[str, Any] = {
        "source": "finance/web",
        "destination": "finance/payments",
        "port": 8080,
    }
    reply = ATTEMPT.reply if reached is Reached.ANSWERED else ""
    return Findings(
        question=TraceQuestion(**(asked | (question or {}))),
        route=replace(ROUTE, ways=ways, **(route or {})),
        way=way if endpoints else None,
        attempt=replace(ATTEMPT, reached=reached, event=reported, detail=detail, reply=reply),
        **({"trace": None, "no_handshake": "none was made"} | found_out),
    )


def listening(*sockets: str) -> Listening:
    """Where the server's processes listen, as ``ADDRESS:PORT``."""
    pairs = [each.rpartition(":") for each in sockets]
    return Listening(
        pod="finance/payments-0",
        sockets=tuple(Endpoint(address, int(port)) for address, _, port in pairs),
    )


FOREIGN_CLIENT: dict[str, Any] = {
    "source": "legacy/cron",
    "in_mesh": False,
    "captured": False,
    "why": OUTSIDE,
    "identity": None,
}
FOREIGN_SERVER: dict[str, Any] = {
    "mode": None,
    "decided_by": None,
    "tunnel": False,
    "why": f"legacy/cron is not in the mesh: {OUTSIDE}",
}
