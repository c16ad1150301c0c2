"""Reading one's own TLS 1.3 connection off the wire, both directions.

OpenSSL hands out the secrets of a connection in the NSS key log format. With them the records can
be opened by RFC 8446 section 5.2 exactly as a packet analyser does, which shows each message at
its place, with its size, and who sent it, by public interfaces alone. (The message callback of the
``ssl`` module, ``SSLContext._msg_callback``, is private; OpenSSL's info callback knows no sizes.)

Nothing here decides anything about the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from troth.handshake.messages import parse_server_hello
from troth.handshake.names import ContentType, HandshakeType, TlsRole

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_SIZE = 5
_CONTENT_TYPES = frozenset(ContentType)
_TLS_MAJOR = 3
_MESSAGE_HEADER_SIZE = 4
_NONCE_SIZE = 12


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One message, alert or piece of data as it stood on the wire.

    Attributes:
        content: None if the record could not be opened.
        message: The handshake message's type, where it is one.
        body: The content without headers.
        size: Bytes of the message with its header, without the record's header and protection.
        encrypted: It was not readable for others on the path.
    """

    content: ContentType | None
    message: int | None = None
    body: bytes
    size: int
    encrypted: bool


class RecordSplitter:
    """Cuts a byte stream into TLS records, however it arrives (RFC 8446 section 5.1)."""

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def pending(self) -> bytes:
        """What came after the last whole record."""
        return self._buffer

    @property
    def is_tls(self) -> bool:
        """Whether what is pending can be the beginning of a record."""
        kind, major = self._buffer[:1], self._buffer[1:2]
        return (not kind or kind[0] in _CONTENT_TYPES) and (not major or major[0] == _TLS_MAJOR)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take more bytes and give the records that are whole now, headers included."""
        self._buffer += data
        while self.is_tls and len(self._buffer) >= HEADER_SIZE:
            end = HEADER_SIZE + int.from_bytes(self._buffer[3:HEADER_SIZE], "big")
            if len(self._buffer) < end:
                return
            record, self._buffer = self._buffer[:end], self._buffer[end:]
            yield record


class Secrets:
    """A connection's traffic secrets, by their NSS key log labels; they never leave memory."""

    def __init__(self) -> None:
        self._by_label: dict[str, bytes] = {}

    def add(self, line: bytes) -> None:
        """Take a line ``LABEL CLIENT_RANDOM SECRET`` as OpenSSL's key log callback gives it."""
        label, _, secret = line.decode("ascii").split(" ")
        self._by_label[label] = bytes.fromhex(secret)

    def get(self, side: TlsRole, *, application: bool) -> bytes | None:
        """The secret that protects what ``side`` sends during or after the handshake."""
        epoch = "TRAFFIC_SECRET_0" if application else "HANDSHAKE_TRAFFIC_SECRET"
        return self._by_label.get(f"{side.upper()}_{epoch}")


class _Suite(msgspec.Struct, frozen=True):
    hash: HashAlgorithm
    aead: type[AESGCM | ChaCha20Poly1305]
    key_size: int

    def expand(self, secret: bytes, label: bytes, length: int) -> bytes:
        """HKDF-Expand-Label with an empty context, RFC 8446 section 7.1."""
        full = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
        return HKDFExpand(self.hash, length, info).derive(secret)


class _Direction:
    """What one side sends: its keys, record numbers and unfinished message."""

    suites: ClassVar[dict[int, _Suite]] = {
        0x1301: _Suite(SHA256(), AESGCM, 16),
        0x1302: _Suite(SHA384(), AESGCM, 32),
        0x1303: _Suite(SHA256(), ChaCha20Poly1305, 32),
    }

    def __init__(self, side: TlsRole, secrets: Secrets) -> None:
        self._side = side
        self._secrets = secrets
        self._application = False
        self._secret: bytes | None = None
        self._sequence = 0
        self._message = b""

    def decrypt(self, record: bytes, suite: _Suite) -> bytes | None:
        """The inner plaintext (content, type, padding), or None if the record can't be opened."""
        if self._secret is None:
            self._secret = self._secrets.get(self._side, application=self._application)
        if self._secret is None:
            return None
        key = suite.expand(self._secret, b"key", suite.key_size)
        iv = int.from_bytes(suite.expand(self._secret, b"iv", _NONCE_SIZE), "big")
        nonce = (iv ^ self._sequence).to_bytes(_NONCE_SIZE, "big")
        header, sealed = record[:HEADER_SIZE], record[HEADER_SIZE:]
        try:
            inner = suite.aead(key).decrypt(nonce, sealed, header)
        except (InvalidTag, ValueError):
            return None
        self._sequence += 1
        return inner

    def handshake(self, fragment: bytes, *, encrypted: bool) -> Iterator[Unit]:
        """The messages that are whole with this fragment (section 5.1 lets records split them)."""
        self._message += fragment
        while len(self._message) >= _MESSAGE_HEADER_SIZE:
            end = _MESSAGE_HEADER_SIZE + int.from_bytes(self._message[1:4], "big")
            if len(self._message) < end:
                return
            message, self._message = self._message[:end], self._message[end:]
            yield Unit(
                content=ContentType.HANDSHAKE,
                message=message[0],
                body=message[_MESSAGE_HEADER_SIZE:],
                size=end,
                encrypted=encrypted,
            )

    def switch_keys(self, message: int | None, suite: _Suite | None) -> None:
        """Change keys where the protocol does: after Finished and after KeyUpdate."""
        if message == HandshakeType.FINISHED:
            self._application, self._secret, self._sequence = True, None, 0
        elif message == HandshakeType.KEY_UPDATE and self._secret and suite:
            size = suite.hash.digest_size
            self._secret = suite.expand(self._secret, b"traffic upd", size)
            self._sequence = 0


class WireTap:
    """Opens the records of one connection, in the order in which they were sent and received."""

    def __init__(self, secrets: Secrets) -> None:
        self._directions = {side: _Direction(side, secrets) for side in TlsRole}
        self._suite: _Suite | None = None
        self._agreed = False

    def read(self, sender: TlsRole, record: bytes) -> Iterator[Unit]:
        """What the record holds; OpenSSL must have seen it before, so that its keys are known.

        ChangeCipherSpec is left out: TLS 1.3 only sends it to please middleboxes.
        """
        direction = self._directions[sender]
        content, payload = record[0], record[HEADER_SIZE:]
        encrypted = content == ContentType.APPLICATION_DATA
        if encrypted:
            inner = direction.decrypt(record, self._suite) if self._suite else None
            stripped = inner.rstrip(b"\0") if inner is not None else b""
            if not stripped or stripped[-1] not in _CONTENT_TYPES:
                yield Unit(content=None, body=b"", size=len(payload), encrypted=True)
                return
            content, payload = stripped[-1], stripped[:-1]
        elif (
            self._agreed and sender is TlsRole.SERVER and content != ContentType.CHANGE_CIPHER_SPEC
        ):
            # After its ServerHello a server sends nothing in the clear: somebody else did.
            yield Unit(content=None, body=payload, size=len(payload), encrypted=False)
            return
        if content == ContentType.CHANGE_CIPHER_SPEC:
            return
        if content != ContentType.HANDSHAKE:
            yield Unit(
                content=ContentType(content), body=payload, size=len(payload), encrypted=encrypted
            )
            return
        for unit in direction.handshake(payload, encrypted=encrypted):
            if unit.message == HandshakeType.SERVER_HELLO and sender is TlsRole.SERVER:
                hello = parse_server_hello(unit.body)
                self._suite = _Direction.suites.get(hello.cipher_suite) if hello else None
                self._agreed = hello is not None and not hello.retry
            yield unit
            direction.switch_keys(unit.message, self._suite)
