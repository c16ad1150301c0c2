"""A traced handshake as recorded, before it becomes steps: events in order, and their outcome."""

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
    """A certificate's claims, which prove nothing until the certificate is verified.

    Attributes:
        spiffe_id: The one SPIFFE ID among its URI SANs, None if there isn't exactly one.
        issuer: The issuer's distinguished name in the form of RFC 4514.
        serial: The serial number in hexadecimal.
    """

    spiffe_id: str | None
    subject: str
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime


class Verdict(StrEnum):
    """The outcome, judged only by the server's own answer."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNDECIDED = "undecided"


class MessageField(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a message, named as in RFC 8446, with its value for people."""

    name: str
    value: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened.

    Attributes:
        actor: Who sent the message, judged the certificate or ended the connection.
        elapsed_ms: Milliseconds since the start, when the client saw or did it.
        size: Bytes of a message with its header; 0 if it isn't a message.
        encrypted: Whether others on the path could not read it.
        detail: Details for people.
        fields: What stands in a message.
    """

    actor: TlsRole
    kind: Kind
    elapsed_ms: float
    size: int = 0
    encrypted: bool = False
    detail: str = ""
    fields: tuple[MessageField, ...] = ()


class HandshakeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A traced connection.

    Attributes:
        server_name: The SNI sent: the destination's port in a tunnel.
        expected: The SPIFFE ID the server had to have, None for any.
        version: The negotiated version, such as ``TLS 1.3``; None before the ServerHello. The same
            goes for ``cipher`` and for ``group``, the key exchange.
        alpn: The protocol the server chose; None for none.
        server_chain: The certificates the server presented, leaf first.
        client_chain: Those that the client could present.
        mutual: Each side has verified the other's certificate.
        verdict: Whether the server accepted the client.
        reason: Why, in one clause.
        sent: Bytes of application data to the server; ``received`` those from it.
        reply: The beginning of the answer, made safe for a terminal.
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
