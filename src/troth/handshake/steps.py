"""The handshake as steps: a process table and a status tracker.

The rules are a table, like the state machines of RFC 8446 (appendix A): which action of which side
leads to which states. The client's states are its own (A.1). The server's are inferred from what it
has sent (A.2); until it sends something, it stays in its last known state.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from troth.handshake.record import HandshakeRecord, Kind, TlsRole, Verdict

if TYPE_CHECKING:
    from troth.handshake.record import Event


class ClientState(StrEnum):
    """States of RFC 8446 appendix A.1."""

    START = "START"
    WAIT_SH = "WAIT_SH"
    WAIT_EE = "WAIT_EE"
    WAIT_CERT_CR = "WAIT_CERT_CR"
    WAIT_CERT = "WAIT_CERT"
    WAIT_CV = "WAIT_CV"
    WAIT_FINISHED = "WAIT_FINISHED"
    # The RFC names no state between receiving the server's Finished and sending one's own.
    ANSWERING = "(answering)"
    CONNECTED = "CONNECTED"
    CLOSED = "(closed)"


class ServerState(StrEnum):
    """States of RFC 8446 appendix A.2, those without early data."""

    START = "START"
    NEGOTIATED = "NEGOTIATED"
    WAIT_CERT = "WAIT_CERT"
    WAIT_FINISHED = "WAIT_FINISHED"
    CONNECTED = "CONNECTED"
    CLOSED = "(closed)"


class CertificateStatus(StrEnum):
    """How far the other side has verified one side's certificate."""

    NOT_SENT = "not sent"
    REQUESTED = "requested"
    WITHHELD = "withheld"
    SENT = "sent"
    TRUSTED = "trusted"
    VERIFIED = "verified"
    REFUSED = "refused"


class ConnectionStatus(StrEnum):
    """The connection's security so far."""

    NONE = "none"
    NEGOTIATING = "negotiating"
    ENCRYPTED = "encrypted"
    SERVER_AUTHENTICATED = "server authenticated"
    ESTABLISHED = "established"
    REFUSED = "refused"
    CLOSED = "closed"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the process table.

    Attributes:
        elapsed_ms: Milliseconds since the start, by the client's clock.
        client_state: The state after the step, by RFC 8446 appendix A; so is ``server_state``.
        result: The result, and on a second line the size of a message.
    """

    number: int
    elapsed_ms: float
    actor: TlsRole
    action: str
    client_state: ClientState
    server_state: ServerState
    result: str


class TrackerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the status tracker: the state after the step of that number.

    A certificate is *trusted* once its chain and name are accepted, *verified* once its owner has
    also proved that it holds the key.
    """

    step: int
    client_certificate: CertificateStatus
    server_certificate: CertificateStatus
    connection: ConnectionStatus


class TraceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One connection as data, ready for JSON.

    Attributes:
        handshake: What was on the wire.
        stopped_at: The action of the step where it was refused or timed out; empty if accepted.
        reason: The reason of the verdict, in one clause.
    """

    schema: str = "troth/handshake/v1"
    verdict: Verdict
    stopped_at: str
    reason: str
    steps: tuple[Step, ...]
    tracker: tuple[TrackerRow, ...]
    handshake: HandshakeRecord


class _Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Both state machines and the tracker at one moment."""

    client_state: ClientState = ClientState.START
    server_state: ServerState = ServerState.START
    client_certificate: CertificateStatus = CertificateStatus.NOT_SENT
    server_certificate: CertificateStatus = CertificateStatus.NOT_SENT
    connection: ConnectionStatus = ConnectionStatus.NONE


class _Rule(msgspec.Struct, frozen=True, kw_only=True):
    """An event's name and the new states; None keeps a state."""

    action: str
    client_state: ClientState | None = None
    server_state: ServerState | None = None
    client_certificate: CertificateStatus | None = None
    server_certificate: CertificateStatus | None = None
    connection: ConnectionStatus | None = None

    def apply(self, standing: _Standing) -> _Standing:
        return _Standing(
            client_state=self.client_state or standing.client_state,
            server_state=self.server_state or standing.server_state,
            client_certificate=self.client_certificate or standing.client_certificate,
            server_certificate=self.server_certificate or standing.server_certificate,
            connection=self.connection or standing.connection,
        )


_C, _S = TlsRole.CLIENT, TlsRole.SERVER

_RULES: dict[tuple[TlsRole, Kind], _Rule] = {
    (_C, Kind.CLIENT_HELLO): _Rule(
        action="ClientHello: offer TLS 1.3 and key shares",
        client_state=ClientState.WAIT_SH,
        connection=ConnectionStatus.NEGOTIATING,
    ),
    (_S, Kind.HELLO_RETRY_REQUEST): _Rule(action="HelloRetryRequest: ask for another key share"),
    (_S, Kind.SERVER_HELLO): _Rule(
        action="ServerHello: choose cipher and key share",
        client_state=ClientState.WAIT_EE,
        server_state=ServerState.NEGOTIATED,
        connection=ConnectionStatus.ENCRYPTED,
    ),
    (_S, Kind.ENCRYPTED_EXTENSIONS): _Rule(
        action="EncryptedExtensions: choose the protocol", client_state=ClientState.WAIT_CERT_CR
    ),
    (_S, Kind.CERTIFICATE_REQUEST): _Rule(
        action="CertificateRequest: ask for the client's",
        client_state=ClientState.WAIT_CERT,
        client_certificate=CertificateStatus.REQUESTED,
    ),
    (_S, Kind.CERTIFICATE): _Rule(
        action="Certificate: show the server's chain",
        client_state=ClientState.WAIT_CV,
        server_certificate=CertificateStatus.SENT,
    ),
    (_C, Kind.TRUSTED): _Rule(
        action="check chain, dates and SPIFFE ID",
        server_certificate=CertificateStatus.TRUSTED,
    ),
    (_C, Kind.REFUSED): _Rule(
        action="check chain, dates and SPIFFE ID",
        client_state=ClientState.CLOSED,
        server_certificate=CertificateStatus.REFUSED,
        connection=ConnectionStatus.REFUSED,
    ),
    (_S, Kind.CERTIFICATE_VERIFY): _Rule(
        action="CertificateVerify: prove to hold the key",
        client_state=ClientState.WAIT_FINISHED,
        server_certificate=CertificateStatus.VERIFIED,
    ),
    (_S, Kind.WRONG_CERTIFICATE_VERIFY): _Rule(
        action="CertificateVerify: fail to prove the key",
        server_certificate=CertificateStatus.REFUSED,
        connection=ConnectionStatus.REFUSED,
    ),
    (_S, Kind.WRONG_FINISHED): _Rule(
        action="Finished: confirm something else", connection=ConnectionStatus.REFUSED
    ),
    (_C, Kind.CERTIFICATE): _Rule(
        action="Certificate: show the client's chain", client_certificate=CertificateStatus.SENT
    ),
    (_C, Kind.EMPTY_CERTIFICATE): _Rule(
        action="Certificate: show none", client_certificate=CertificateStatus.WITHHELD
    ),
    (_C, Kind.CERTIFICATE_VERIFY): _Rule(action="CertificateVerify: prove to hold the key"),
    (_C, Kind.FINISHED): _Rule(
        action="Finished: confirm all of the above", client_state=ClientState.CONNECTED
    ),
    (_S, Kind.TRUSTED): _Rule(
        action="check the client's certificate",
        server_state=ServerState.CONNECTED,
        client_certificate=CertificateStatus.VERIFIED,
        connection=ConnectionStatus.ESTABLISHED,
    ),
    (_S, Kind.ADMITTED): _Rule(
        action="let in a client without certificate",
        server_state=ServerState.CONNECTED,
        connection=ConnectionStatus.ESTABLISHED,
    ),
    (_S, Kind.REFUSED): _Rule(
        action="check the client's certificate",
        server_state=ServerState.CLOSED,
        client_certificate=CertificateStatus.REFUSED,
        connection=ConnectionStatus.REFUSED,
    ),
    (_S, Kind.NEW_SESSION_TICKET): _Rule(action="NewSessionTicket"),
    (_C, Kind.APPLICATION_DATA): _Rule(action="send data"),
    (_S, Kind.APPLICATION_DATA): _Rule(action="send data"),
    (_C, Kind.ALERT): _Rule(
        action="alert: say why and stop",
        client_state=ClientState.CLOSED,
        connection=ConnectionStatus.REFUSED,
    ),
    (_C, Kind.BROKE_OFF): _Rule(
        action="stop: the server's answer is not acceptable",
        client_state=ClientState.CLOSED,
        connection=ConnectionStatus.REFUSED,
    ),
    (_C, Kind.CLOSE_NOTIFY): _Rule(
        action="close_notify: nothing more to send",
        client_state=ClientState.CLOSED,
        connection=ConnectionStatus.CLOSED,
    ),
    (_S, Kind.NOT_TLS): _Rule(
        action="answer in something else than TLS", connection=ConnectionStatus.REFUSED
    ),
    (_S, Kind.TIMED_OUT): _Rule(action="do not answer"),
}

_ENDINGS = {
    Kind.ALERT: "alert: say why and stop",
    Kind.CLOSE_NOTIFY: "close_notify: nothing more to send",
    Kind.CLOSED: "close the connection",
    Kind.RESET: "reset the connection",
}

_JUDGEMENTS = {
    Kind.TRUSTED: "trusted",
    Kind.ADMITTED: "admitted",
    Kind.REFUSED: "refused",
}


def _rule(event: Event, standing: _Standing, verdict: Verdict) -> _Rule:
    # These few depend on earlier events; all others are in the table.
    match event.actor, event.kind:
        case (TlsRole.SERVER, Kind.FINISHED):
            asked = standing.client_certificate is CertificateStatus.REQUESTED
            return _Rule(
                action="Finished: confirm all of the above",
                client_state=ClientState.ANSWERING,
                server_state=ServerState.WAIT_CERT if asked else ServerState.WAIT_FINISHED,
                connection=ConnectionStatus.SERVER_AUTHENTICATED,
            )
        case (TlsRole.SERVER, Kind.ALERT | Kind.CLOSE_NOTIFY | Kind.CLOSED | Kind.RESET):
            refused = verdict is Verdict.REFUSED
            return _Rule(
                action=_ENDINGS[event.kind],
                client_state=ClientState.CLOSED,
                server_state=ServerState.CLOSED,
                connection=ConnectionStatus.REFUSED if refused else ConnectionStatus.CLOSED,
            )
        case key:
            return _RULES.get(key, _Rule(action=event.kind.value))


def _result(event: Event) -> str:
    words = [_JUDGEMENTS.get(event.kind, ""), event.detail]
    told = ": ".join(filter(None, words))
    size = f"{event.size} bytes{', encrypted' if event.encrypted else ', in the clear'}"
    return "\n".join(filter(None, (told, size if event.size else "")))


def build_report(record: HandshakeRecord) -> TraceReport:
    """Turn a recorded handshake into steps."""
    standing = _Standing()
    steps: list[Step] = []
    tracker: list[TrackerRow] = []
    stopped_at = ""
    for number, event in enumerate(record.events, start=1):
        rule = _rule(event, standing, record.verdict)
        standing = rule.apply(standing)
        steps.append(
            Step(
                number=number,
                elapsed_ms=event.elapsed_ms,
                actor=event.actor,
                action=rule.action,
                client_state=standing.client_state,
                server_state=standing.server_state,
                result=_result(event),
            )
        )
        tracker.append(
            TrackerRow(
                step=number,
                client_certificate=standing.client_certificate,
                server_certificate=standing.server_certificate,
                connection=standing.connection,
            )
        )
        ended = standing.connection is ConnectionStatus.REFUSED or (
            event.actor is TlsRole.SERVER and event.kind in {Kind.TIMED_OUT, *_ENDINGS}
        )
        if ended and not stopped_at and record.verdict is not Verdict.ACCEPTED:
            stopped_at = f"{event.actor}: {rule.action}"
    return TraceReport(
        verdict=record.verdict,
        stopped_at=stopped_at,
        reason=record.reason,
        steps=tuple(steps),
        tracker=tuple(tracker),
        handshake=record,
    )
