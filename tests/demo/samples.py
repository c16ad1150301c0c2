"""What the mesh could have answered."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from troth.demo import Happened, Try
from troth.local import Attempt, Reached
from troth.mesh import (
    ClientDecision,
    Connection,
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

BY_TUNNEL = Try(
    source="finance/web",
    destination="finance/payments",
    port=8080,
    expected=Happened.TUNNEL,
    peer="finance/web",
)
IMPOSTOR = Try(
    source="legacy/cron",
    destination="finance/payments",
    port=8080,
    credentials=Credentials.EXPIRED,
    claim="finance/web",
    expected=Happened.REFUSED,
    reason=Reason.CERTIFICATE_EXPIRED,
    alert="certificate_expired",
)

ACCEPTED = Connection(
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
    tls_cipher="",
    tls_group="X25519MLKEM768",
    duration_ms=1,
)
PASSED = msgspec.structs.replace(ACCEPTED, outcome=Outcome.PLAINTEXT, peer=None)
REFUSED = msgspec.structs.replace(
    PASSED,
    outcome=Outcome.REFUSED,
    reason=Reason.PLAINTEXT_TO_STRICT,
    mode=Mode.STRICT,
    decided_by=STRICT,
)

ANSWERED = Attempt(
    source="finance/web-0",
    source_port=1000,
    address="10.96.0.1",
    port=8080,
    reached=Reached.ANSWERED,
    reply="HTTP/1.0 200 OK\r\nServer: x\r\n\r\npaid\n",
    detail="",
    elapsed_ms=1.0,
    event=ACCEPTED,
)
RESET = msgspec.structs.replace(
    ANSWERED,
    reached=Reached.RESET,
    reply="",
    detail="Connection reset by peer",
    event=REFUSED,
)


def refused_trace(*, alert: str = "certificate_expired (45)") -> Trace:
    """A handshake that the server broke off."""
    events = [Event(actor=End.CLIENT, kind=Kind.CLIENT_HELLO, elapsed_ms=0.0, size=9)]
    if alert:
        events.append(Event(actor=End.SERVER, kind=Kind.ALERT, elapsed_ms=1.0, detail=alert))
    record = HandshakeRecord(
        server_name="8080",
        expected=PAYMENTS,
        version="TLS 1.3",
        cipher="TLS_AES_256_GCM_SHA384",
        group="X25519",
        alpn="troth",
        server_chain=(),
        client_chain=(),
        mutual=False,
        events=tuple(events),
        verdict=Verdict.REFUSED,
        reason="the server refused the client's certificate",
        sent=0,
        received=0,
        reply="",
    )
    return Trace(
        client=ClientDecision(
            source="finance/web-0",
            identity=WEB,
            destination="finance/payments-0",
            address="10.0.0.2",
            port=8080,
            expected=PAYMENTS,
            tunnel=True,
            why="port 8080 of finance/payments-0 is PERMISSIVE by the default",
        ),
        server=ServerDecision(
            mode=Mode.PERMISSIVE, decided_by=DEFAULT, plaintext=True, tunnel=True, why=""
        ),
        credentials=Credentials.EXPIRED,
        claimed=WEB,
        source_port=1000,
        report=build_report(record),
        event=msgspec.structs.replace(
            ACCEPTED, outcome=Outcome.REFUSED, reason=Reason.CERTIFICATE_EXPIRED, peer=None
        ),
    )
