"""Connections and handshakes as a mesh could have seen them, for tests to vary."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from troth.handshake.record import Event, HandshakeRecord, Kind, TlsRole, Verdict
from troth.mesh.decisions import ClientDecision, ServerDecision
from troth.policy.model import Mode
from troth.policy.scope import Scope
from troth.policy.verdict import DecidedBy
from troth.traffic.connection import Connection, ConnectionReport, Outcome, Party, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Iterable

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEB = "spiffe://cluster.local/ns/finance/sa/web"
PAYMENTS = "spiffe://cluster.local/ns/finance/sa/payments"
DEFAULT = DecidedBy(scope=Scope.DEFAULT)
STRICT = DecidedBy(scope=Scope.NAMESPACE, policy="finance/strict")

PLAINTEXT = Connection(
    time=NOON,
    outcome=Outcome.PLAINTEXT,
    reason=Reason.NONE,
    detail="",
    side=Side.SERVER,
    source=Party(address="10.0.0.1", port=1000),
    destination=Party(address="10.0.0.2", port=8080),
    peer=None,
    claimed_peer=None,
    mode=None,
    decided_by=None,
    tls_version="",
    tls_cipher="",
    tls_group="",
    duration_ms=1,
)
"""From somewhere to somewhere that nobody knows."""

ACCEPTED = msgspec.structs.replace(
    PLAINTEXT,
    outcome=Outcome.ACCEPTED,
    source=Party(address="10.0.0.1", port=1000, pod="finance/web-0", workload="finance/web"),
    destination=Party(
        address="10.0.0.2", port=8080, pod="finance/payments-0", workload="finance/payments"
    ),
    peer=WEB,
    mode=Mode.PERMISSIVE,
    decided_by=DEFAULT,
    tls_version="TLSv1.3",
    tls_cipher="TLS_AES_256_GCM_SHA384",
    tls_group="X25519MLKEM768",
)
"""From finance/web to finance/payments, by the tunnel."""

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
"""What the client of `ACCEPTED` decided."""

SERVER = ServerDecision(
    mode=Mode.PERMISSIVE, decided_by=DEFAULT, plaintext=True, tunnel=True, why=""
)
"""What its server decided."""


def connection(**changes: Any) -> Connection:
    """`PLAINTEXT`, but for some of its fields."""
    return msgspec.structs.replace(PLAINTEXT, **changes)


def at_noon(reports: Iterable[ConnectionReport]) -> list[ConnectionReport]:
    """The reports, as if all of them were of that time."""
    replace = msgspec.structs.replace
    return [replace(each, connection=replace(each.connection, time=NOON)) for each in reports]


def handshake_record(verdict: Verdict, reason: str, *, alert: str = "") -> HandshakeRecord:
    """The handshake of `ACCEPTED`, had it ended so; ``alert`` is the server's last word."""
    events = [Event(actor=TlsRole.CLIENT, kind=Kind.CLIENT_HELLO, elapsed_ms=0.0, size=9)]
    if alert:
        events.append(Event(actor=TlsRole.SERVER, kind=Kind.ALERT, elapsed_ms=1.0, detail=alert))
    return HandshakeRecord(
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
