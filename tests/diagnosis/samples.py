"""What a mesh could have found out about a connection from finance/web to finance/payments:8080."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from troth.diagnosis import Findings, Question
from troth.local import Attempt, EnvoyStatus, Listening, Reached, Route, Way
from troth.mesh import (
    ClientDecision,
    Connection,
    Endpoint,
    Outcome,
    Party,
    Reason,
    ServerDecision,
    Side,
)
from troth.policy import DecidedBy, Mode, Scope
from troth.trace import (
    Credentials,
    Event,
    HandshakeRecord,
    Kind,
    Trace,
    Verdict,
    build_report,
)
from troth.trace import Side as End

WEB = "spiffe://cluster.local/ns/finance/sa/web"
PAYMENTS = "spiffe://cluster.local/ns/finance/sa/payments"
DEFAULT = DecidedBy(scope=Scope.DEFAULT)
STRICT = DecidedBy(scope=Scope.NAMESPACE, policy="finance/strict")
OUTSIDE = "namespace legacy is not labelled troth.dev/mesh: enabled"

CLIENT = ClientDecision(
    source="finance/web-0",
    identity=WEB,
    destination="finance/payments-0",
    address="10.0.0.2",
    port=8080,
    expected=PAYMENTS,
    tunnel=True,
    why="port 8080 of finance/payments-0 is PERMISSIVE by the default",
)
SERVER = ServerDecision(
    mode=Mode.PERMISSIVE, decided_by=DEFAULT, plaintext=True, tunnel=True, why=""
)
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
EVENT = Connection(
    time=datetime(2026, 5, 1, 12, tzinfo=UTC),
    outcome=Outcome.ACCEPTED,
    reason=Reason.NONE,
    detail="",
    side=Side.SERVER,
    source=Party(address="10.0.0.1", port=1000, pod="finance/web-0", workload="finance/web"),
    destination=Party(
        address="10.0.0.2", port=8080, pod="finance/payments-0", workload="finance/payments"
    ),
    peer=WEB,
    claimed_peer=None,
    mode=Mode.PERMISSIVE,
    decided_by=DEFAULT,
    tls_version="TLSv1.3",
    tls_cipher="TLS_AES_256_GCM_SHA384",
    tls_group="X25519MLKEM768",
    duration_ms=1,
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
    return msgspec.structs.replace(EVENT, outcome=outcome, reason=reason, **(plain | changes))


def handshake(
    verdict: Verdict,
    reason: str,
    *,
    credentials: Credentials = Credentials.OWN,
    reported: Connection | None = None,
) -> Trace:
    """A handshake that went as ``verdict`` says."""
    events = [Event(actor=End.CLIENT, kind=Kind.CLIENT_HELLO, elapsed_ms=0.0, size=9)]
    if verdict is Verdict.REFUSED:
        events.append(Event(actor=End.SERVER, kind=Kind.ALERT, elapsed_ms=1.0, detail="no (0)"))
    record = HandshakeRecord(
        server_name="8080",
        expected=PAYMENTS,
        version="TLS 1.3",
        cipher="TLS_AES_256_GCM_SHA384",
        group="X25519MLKEM768",
        alpn="troth",
        server_chain=(),
        client_chain=(),
        mutual=verdict is Verdict.ACCEPTED,
        events=tuple(events),
        verdict=verdict,
        reason=reason,
        sent=0,
        received=0,
        reply="",
    )
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
        question=Question(**(asked | (question or {}))),
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
