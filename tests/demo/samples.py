"""What the mesh could have answered."""

from __future__ import annotations

import msgspec
from tests.samples import ACCEPTED, CLIENT, SERVER, STRICT, WEB, handshake_record

from troth.connect.findings import Attempt, Reached
from troth.connect.report import Credentials, Trace
from troth.demo.scenario import Happened, Try
from troth.handshake.record import Verdict
from troth.handshake.steps import build_report
from troth.policy.model import Mode
from troth.traffic.connection import Outcome, Reason

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
    record = handshake_record(
        Verdict.REFUSED, "the server refused the client's certificate", alert=alert
    )
    return Trace(
        client=CLIENT,
        server=SERVER,
        credentials=Credentials.EXPIRED,
        claimed=WEB,
        source_port=1000,
        report=build_report(record),
        event=msgspec.structs.replace(
            ACCEPTED, outcome=Outcome.REFUSED, reason=Reason.CERTIFICATE_EXPIRED, peer=None
        ),
    )
