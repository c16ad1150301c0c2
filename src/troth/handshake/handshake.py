"""One TLS 1.3 client handshake, bytes in and bytes out, recorded message by message.

OpenSSL (through pyOpenSSL) does the handshake and alone judges it; `WireTap` reads along. In TLS
1.3 the client finishes before the server has verified its certificate (RFC 8446 section 4.4.2.4 and
appendix A), so the verdict is "accepted" only after an answer that the server can't have sent
before it saw the client's Finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.handshake.certificates import describe_certificate
from troth.handshake.engine import Engine
from troth.handshake.messages import open_message
from troth.handshake.record import Event, HandshakeRecord, Kind, TlsRole, Verdict
from troth.handshake.wire import (
    ALERT_SIZE,
    CERTIFICATE_ALERTS,
    CIPHER_SUITES,
    CLOSE_NOTIFY,
    GROUPS,
    SIGNATURE_SCHEMES,
    VERSIONS,
    ContentType,
    HandshakeType,
    RecordSplitter,
    ServerHello,
    WireTap,
    alert_name,
    named,
    offered_groups,
    parse_certificate,
    parse_server_hello,
    printable,
    signature_scheme,
)

if TYPE_CHECKING:
    from datetime import datetime

    from troth.handshake.certificates import ClientCredentials
    from troth.handshake.record import CertificateFacts
    from troth.handshake.wire import Unit
    from troth.identity.spiffe import SpiffeId

_REPLY_SHOWN = 200
_WRONG = {
    Kind.CERTIFICATE_VERIFY: Kind.WRONG_CERTIFICATE_VERIFY,
    Kind.FINISHED: Kind.WRONG_FINISHED,
}
# A server that closes the connection normally has finished its handshake: to refuse a client it
# would send an error alert, which close_notify isn't (RFC 8446 section 6).
_LETTING_IN = frozenset({Kind.NEW_SESSION_TICKET, Kind.APPLICATION_DATA, Kind.CLOSE_NOTIFY})
_UNJUDGED = "the server neither accepted nor refused the client"
_KINDS: dict[int | None, Kind] = {
    HandshakeType.CLIENT_HELLO: Kind.CLIENT_HELLO,
    HandshakeType.SERVER_HELLO: Kind.SERVER_HELLO,
    HandshakeType.NEW_SESSION_TICKET: Kind.NEW_SESSION_TICKET,
    HandshakeType.ENCRYPTED_EXTENSIONS: Kind.ENCRYPTED_EXTENSIONS,
    HandshakeType.CERTIFICATE: Kind.CERTIFICATE,
    HandshakeType.CERTIFICATE_REQUEST: Kind.CERTIFICATE_REQUEST,
    HandshakeType.CERTIFICATE_VERIFY: Kind.CERTIFICATE_VERIFY,
    HandshakeType.FINISHED: Kind.FINISHED,
    HandshakeType.KEY_UPDATE: Kind.KEY_UPDATE,
}


def describe(unit: Unit) -> tuple[Kind, str]:
    """The kind of a unit from the wire, and details (empty if the kind says it all)."""
    match unit.content:
        case ContentType.HANDSHAKE:
            return _describe_message(unit)
        case ContentType.APPLICATION_DATA:
            return Kind.APPLICATION_DATA, ""
        case ContentType.ALERT if len(unit.body) == ALERT_SIZE:
            code = unit.body[1]
            if code == CLOSE_NOTIFY:
                return Kind.CLOSE_NOTIFY, ""
            return Kind.ALERT, alert_name(code)
        case _:
            return Kind.UNREADABLE, ""


def _describe_message(unit: Unit) -> tuple[Kind, str]:
    kind = _KINDS.get(unit.message, Kind.OTHER_MESSAGE)
    match kind:
        case Kind.CLIENT_HELLO:
            return kind, ", ".join(named(GROUPS, g) for g in offered_groups(unit.body))
        case Kind.SERVER_HELLO:
            return _describe_server_hello(unit.body)
        case Kind.CERTIFICATE:
            chain = parse_certificate(unit.body)
            leaf = describe_certificate(chain[0]) if chain else None
            detail = (leaf.spiffe_id or leaf.subject) if leaf else ""
            return kind if chain else Kind.EMPTY_CERTIFICATE, detail
        case Kind.CERTIFICATE_VERIFY:
            scheme = signature_scheme(unit.body)
            return kind, named(SIGNATURE_SCHEMES, scheme) if scheme is not None else ""
        case Kind.OTHER_MESSAGE:
            return kind, f"type {unit.message}"
        case _:
            return kind, ""


def _describe_server_hello(body: bytes) -> tuple[Kind, str]:
    hello = parse_server_hello(body)
    if hello is None:
        return Kind.SERVER_HELLO, "malformed"
    group = "" if hello.group is None else named(GROUPS, hello.group)
    if hello.retry:
        return Kind.HELLO_RETRY_REQUEST, group
    suite = named(CIPHER_SUITES, hello.cipher_suite)
    version = named(VERSIONS, hello.version)
    return Kind.SERVER_HELLO, ", ".join(filter(None, (version, suite, group)))


class HandshakeTrace:
    """Drives a client's handshake with a server and records it.

    Feed it what arrives (`receive`), send what it returns, and stop when `settled`. Nothing a
    server sends makes it raise.

    Args:
        server_name: The SNI; in a tunnel the destination's port, such as ``8080``.
        alpn: The one protocol offered.
        credentials: What the client presents on request; None sends an empty Certificate.
        bundle: PEM certificates of the authorities that may vouch for the server.
        expected: The SPIFFE ID the server must have (secure naming); None accepts any.
        now: The time at which certificates have to be valid.

    Raises:
        InputError: ``bundle`` contains no readable certificate, or ``server_name`` is invalid.
    """

    def __init__(
        self,
        *,
        server_name: str,
        credentials: ClientCredentials | None,
        bundle: bytes,
        expected: SpiffeId | None,
        now: datetime,
        alpn: str = "troth",
    ) -> None:
        self._server_name = server_name
        self._alpn = alpn
        self._credentials = credentials
        self._expected = expected
        self._engine = Engine(
            server_name=server_name,
            alpn=alpn,
            credentials=credentials,
            bundle=bundle,
            expected=expected,
            now=now,
        )
        self._tap = WireTap(self._engine.secrets)
        self._inbound, self._outbound = RecordSplitter(), RecordSplitter()

        self._elapsed_ms = 0.0
        self._events: list[Event] = []
        self._hello: ServerHello | None = None
        self._server_chain: tuple[CertificateFacts, ...] = ()
        self._requested = self._shown = False  # the client's certificate
        self._finished = self._answerable = False
        self._verdict: Verdict | None = None
        self._reason = ""
        self._over = False
        self._sent = self._received = 0
        self._reply = b""

    @property
    def settled(self) -> bool:
        """Whether the verdict has been reached."""
        return self._verdict is not None

    @property
    def over(self) -> bool:
        """Whether nothing more can come: the connection was refused, aborted or closed."""
        return self._over

    @property
    def finished(self) -> bool:
        """Whether the client has sent its Finished, so that it is the server's turn."""
        return self._finished

    @property
    def received(self) -> int:
        """Bytes of application data from the server so far."""
        return self._received

    def start(self, elapsed_ms: float) -> bytes:
        """The ClientHello."""
        self._elapsed_ms = elapsed_ms
        self._engine.handshake()
        return self._flush()

    def receive(self, data: bytes, elapsed_ms: float) -> bytes:
        """Process received bytes, in pieces of any size; return the bytes to send."""
        self._elapsed_ms = elapsed_ms
        out = b""
        # Data that arrives with the flight we answer was sent before the server saw the answer.
        self._answerable = self._finished
        for record in self._inbound.feed(data):
            if self._over:
                break
            out += self._step(record)
        if not self._over and not self._inbound.is_tls:
            excerpt = printable(self._inbound.pending[:60].decode("latin-1"))
            self._note(TlsRole.SERVER, Kind.NOT_TLS, detail=f"it says: {excerpt}")
            self._end(Verdict.REFUSED, "what the server says is not TLS")
        return out

    def send(self, data: bytes, elapsed_ms: float) -> bytes:
        """Encrypt application data; nothing before the client's Finished or after the end."""
        self._elapsed_ms = elapsed_ms
        if not self._finished or self._over:
            return b""
        if self._engine.write(data) is None:
            self._sent += len(data)
        return self._flush()

    def close(self, elapsed_ms: float) -> bytes:
        """Close cleanly: the close_notify alert, unless the connection is over already."""
        self._elapsed_ms = elapsed_ms
        if self._over or not self._finished:
            return b""
        self._engine.shutdown()
        return self._flush()

    def closed(self, elapsed_ms: float, *, reset: bool = False) -> None:
        """Record that the server closed (or reset) the TCP connection."""
        self._elapsed_ms = elapsed_ms
        if self._over:
            return
        what = "reset" if reset else "closed"
        stage = "after the client's Finished" if self._finished else "during the handshake"
        self._note(TlsRole.SERVER, Kind.RESET if reset else Kind.CLOSED)
        if self._sent:  # it had had time to refuse before; an app may reject what was sent
            reason = (
                f"the server {what} the connection after data had reached it, without saying why"
            )
            self._end(Verdict.UNDECIDED, reason)
            return
        self._end(Verdict.REFUSED, f"the server {what} the connection {stage}, without an alert")

    def timed_out(self, elapsed_ms: float) -> None:
        """Record that the caller has stopped waiting."""
        self._elapsed_ms = elapsed_ms
        if self._over:
            return
        self._note(TlsRole.SERVER, Kind.TIMED_OUT)
        seconds = f"{elapsed_ms / 1000:.1f} s"
        self._settle(Verdict.UNDECIDED, f"no answer from the server within {seconds}")

    def record(self) -> HandshakeRecord:
        """The record so far."""
        hello = self._hello
        own = self._credentials.facts if self._credentials else ()
        group = hello.group if hello else None
        return HandshakeRecord(
            server_name=self._server_name,
            expected=str(self._expected) if self._expected else None,
            version=named(VERSIONS, hello.version) if hello else None,
            cipher=named(CIPHER_SUITES, hello.cipher_suite) if hello else None,
            group=named(GROUPS, group) if group is not None else None,
            alpn=self._engine.alpn,
            server_chain=self._server_chain,
            client_chain=own,
            mutual=self._shown and self._verdict is Verdict.ACCEPTED,
            events=tuple(self._events),
            verdict=self._verdict or Verdict.UNDECIDED,
            reason=self._reason or _UNJUDGED,
            sent=self._sent,
            received=self._received,
            reply=printable(self._reply.decode("utf-8", "replace")),
        )

    # One record from the server, and the client's reaction.

    def _step(self, record: bytes) -> bytes:
        if self._finished:
            data, failure = self._engine.read(record)
            self._received += len(data)
            self._reply = (self._reply + data)[:_REPLY_SHOWN]
        else:
            failure = self._engine.handshake(record)
        for unit in self._tap.read(TlsRole.SERVER, record):
            if self._over:
                break  # sent by the server, but the client has stopped reading
            self._from_server(unit, failure)
        if failure is not None and not self._over:
            self._break_off(failure)
        return self._flush()

    def _flush(self) -> bytes:
        """The bytes that OpenSSL sends, recorded message by message."""
        out = self._engine.output()
        for record in self._outbound.feed(out):
            for unit in self._tap.read(TlsRole.CLIENT, record):
                self._from_client(unit)
        return out

    def _from_client(self, unit: Unit) -> None:
        kind, detail = describe(unit)
        if kind is Kind.CLIENT_HELLO:
            detail = f"SNI {self._server_name}, ALPN {self._alpn}, {detail}"
        elif kind is Kind.CERTIFICATE:
            self._shown = True
        elif kind is Kind.FINISHED:
            self._finished = True
        self._note(TlsRole.CLIENT, kind, unit, detail)

    def _from_server(self, unit: Unit, failure: str | None) -> None:
        kind, detail = describe(unit)
        if failure is not None and not self._finished and self._is_wrong(kind):
            self._note(TlsRole.SERVER, _WRONG[kind], unit, detail)
            self._break_off(failure)
            return
        if kind is Kind.SERVER_HELLO:
            self._hello = parse_server_hello(unit.body)
        elif kind is Kind.ENCRYPTED_EXTENSIONS:
            detail = f"ALPN {self._engine.alpn or 'none'}"
        elif kind is Kind.CERTIFICATE_REQUEST:
            self._requested = True
        elif kind in _LETTING_IN and failure is None:
            self._answered(kind)
        elif kind is Kind.ALERT:
            self._alerted(unit)
        self._note(TlsRole.SERVER, kind, unit, detail)
        if kind is Kind.CERTIFICATE:
            self._judge_server(unit)
        elif kind in {Kind.ALERT, Kind.CLOSE_NOTIFY}:
            self._end(Verdict.REFUSED, f"the server ended the connection: {detail or kind}")

    def _is_wrong(self, kind: Kind) -> bool:
        """Whether OpenSSL has just rejected this message."""
        return kind is Kind.FINISHED or (
            kind is Kind.CERTIFICATE_VERIFY and not self._engine.proven
        )

    def _break_off(self, failure: str) -> None:
        self._note(TlsRole.CLIENT, Kind.BROKE_OFF, detail=failure)
        self._end(Verdict.REFUSED, f"the client broke off: {failure}")

    def _judge_server(self, unit: Unit) -> None:
        chain = (describe_certificate(der) for der in parse_certificate(unit.body))
        self._server_chain = tuple(facts for facts in chain if facts)
        if self._engine.refusal is not None:
            self._note(TlsRole.CLIENT, Kind.REFUSED, detail=self._engine.refusal)
            self._end(Verdict.REFUSED, f"the client refused the server: {self._engine.refusal}")
        elif self._server_chain:
            leaf = self._server_chain[0]
            self._note(TlsRole.CLIENT, Kind.TRUSTED, detail=leaf.spiffe_id or leaf.subject)

    def _answered(self, kind: Kind) -> None:
        """Handle the server's first data after the client's Finished: it accepts the client."""
        if self._verdict is not None or not self._answerable:
            return
        if self._shown:
            self._note(TlsRole.SERVER, Kind.TRUSTED, detail=f"told by its {kind}")
            self._settle(Verdict.ACCEPTED, "each side trusts the other's certificate")
        else:
            asked = "asked for none" if not self._requested else "takes clients without"
            self._note(TlsRole.SERVER, Kind.ADMITTED, detail=f"it {asked}; told by its {kind}")
            reason = f"the client showed no certificate, and the server {asked}"
            self._settle(Verdict.ACCEPTED, reason)

    def _alerted(self, unit: Unit) -> None:
        """Handle an alert after the client's flight; some are about the client's certificate."""
        code = unit.body[1]
        if self._verdict is None and self._finished and code in CERTIFICATE_ALERTS:
            self._note(TlsRole.SERVER, Kind.REFUSED, detail=f"told by its alert {alert_name(code)}")
            reason = f"the server refused the client's certificate: {alert_name(code)}"
            self._settle(Verdict.REFUSED, reason)

    def _note(self, actor: TlsRole, kind: Kind, unit: Unit | None = None, detail: str = "") -> None:
        self._events.append(
            Event(
                actor=actor,
                kind=kind,
                elapsed_ms=self._elapsed_ms,
                size=unit.size if unit else 0,
                encrypted=unit.encrypted if unit else False,
                detail=detail,
                fields=open_message(unit) if unit else (),
            )
        )

    def _end(self, verdict: Verdict, reason: str) -> None:
        self._over = True
        self._settle(verdict, reason)

    def _settle(self, verdict: Verdict, reason: str) -> None:
        """The first verdict stands."""
        if self._verdict is None:
            self._verdict, self._reason = verdict, reason
