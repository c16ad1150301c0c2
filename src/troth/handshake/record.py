"""What a traced handshake is, before it is told as steps: events in order, and what they settle."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class TlsRole(StrEnum):
    """An end of the connection."""

    CLIENT = "client"
    SERVER = "server"


class Kind(StrEnum):
    """Everything that can happen in a trace: a message, a judgement, or an end."""

    CLIENT_HELLO = "ClientHello"
    SERVER_HELLO = "ServerHello"
    HELLO_RETRY_REQUEST = "HelloRetryRequest"
    ENCRYPTED_EXTENSIONS = "EncryptedExtensions"
    CERTIFICATE_REQUEST = "CertificateRequest"
    CERTIFICATE = "Certificate"
    EMPTY_CERTIFICATE = "Certificate (empty)"
    CERTIFICATE_VERIFY = "CertificateVerify"
    WRONG_CERTIFICATE_VERIFY = "CertificateVerify (wrong)"
    FINISHED = "Finished"
    WRONG_FINISHED = "Finished (wrong)"
    NEW_SESSION_TICKET = "NewSessionTicket"
    KEY_UPDATE = "KeyUpdate"
    OTHER_MESSAGE = "handshake message"
    APPLICATION_DATA = "application data"
    ALERT = "alert"
    CLOSE_NOTIFY = "close_notify"
    UNREADABLE = "unreadable record"
    NOT_TLS = "not TLS"
    TRUSTED = "certificate trusted"
    ADMITTED = "admitted without a certificate"
    REFUSED = "certificate refused"
    BROKE_OFF = "handshake broken off"
    CLOSED = "connection closed"
    RESET = "connection reset"
    TIMED_OUT = "no answer"


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a certificate claims; a claim is no identity until the certificate is verified.

    Attributes:
        spiffe_id: The one SPIFFE ID among its URI SANs, None where there isn't exactly one.
        issuer: The issuer's distinguished name as RFC 4514 writes it.
        serial: The serial number in hexadecimal.
    """

    spiffe_id: str | None
    subject: str
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime


class Verdict(StrEnum):
    """How the connection ended, judged by the server's own answer and nothing less."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNDECIDED = "undecided"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened.

    Attributes:
        actor: Who sent the message, judged the certificate or ended the connection.
        elapsed_ms: Milliseconds since the start, when the client saw or did it.
        size: Bytes of a message with its header; 0 for what isn't a message.
        encrypted: Whether others on the path could not read it.
        detail: What is worth knowing about it.
    """

    actor: TlsRole
    kind: Kind
    elapsed_ms: float
    size: int = 0
    encrypted: bool = False
    detail: str = ""


class HandshakeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A traced connection.

    Attributes:
        server_name: The SNI that was sent: the destination's port in a tunnel.
        expected: The SPIFFE ID the server had to have, None for any.
        version: The negotiated version, such as ``TLS 1.3``; None before the ServerHello. So too
            ``cipher`` and ``group``, the key exchange.
        alpn: The protocol the server chose; None for none.
        server_chain: The certificates the server showed, leaf first.
        client_chain: Those the client had to show.
        mutual: Each side has verified the other's certificate.
        verdict: Whether the server let the client in.
        reason: Why, in one clause.
        sent: Bytes of application data to the server; ``received`` those from it.
        reply: The first of what was received, fit for a terminal.
    """

    server_name: str
    expected: str | None
    version: str | None
    cipher: str | None
    group: str | None
    alpn: str | None
    server_chain: tuple[CertificateFacts, ...]
    client_chain: tuple[CertificateFacts, ...]
    mutual: bool
    events: tuple[Event, ...]
    verdict: Verdict
    reason: str
    sent: int
    received: int
    reply: str
