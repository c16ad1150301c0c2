"""Our own TLS 1.3 connection, decoded in both directions: records, messages, names.

OpenSSL exports the secrets of a connection in the NSS key log format. With them the records can be
decrypted by RFC 8446 section 5.2, as a packet analyser does. That shows each message in order, with
its size and its sender, using public interfaces only. (The message callback of the ``ssl`` module,
``SSLContext._msg_callback``, is private; OpenSSL's info callback doesn't report sizes.)

OpenSSL judges the handshake; nothing here does. So a field of a message (RFC 8446 section 4) that
can't be read is left out, and is never an error.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from troth.handshake.record import TlsRole

if TYPE_CHECKING:
    from collections.abc import Iterator


HEADER_SIZE = 5
_TLS_MAJOR = 3
_MESSAGE_HEADER_SIZE = 4
_NONCE_SIZE = 12
_SUPPORTED_VERSIONS, _KEY_SHARE = 43, 51
# RFC 8446 section 4.1.3: a HelloRetryRequest is a ServerHello with this as its random.
_RETRY_RANDOM = hashlib.sha256(b"HelloRetryRequest").digest()


class ContentType(IntEnum):
    """``ContentType`` of a record, RFC 8446 section 5.1."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


_CONTENT_TYPES = frozenset(ContentType)


class HandshakeType(IntEnum):
    """``HandshakeType`` of a message, RFC 8446 section 4."""

    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    NEW_SESSION_TICKET = 4
    ENCRYPTED_EXTENSIONS = 8
    CERTIFICATE = 11
    CERTIFICATE_REQUEST = 13
    CERTIFICATE_VERIFY = 15
    FINISHED = 20
    KEY_UPDATE = 24


CLOSE_NOTIFY = 0
ALERT_SIZE = 2

# IANA "TLS Alerts".
ALERTS = {
    CLOSE_NOTIFY: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}

CERTIFICATE_ALERTS = frozenset({42, 43, 44, 45, 46, 48, 49, 51, 116})
"""Alerts with which a peer refuses the certificate (or the proof of its key)."""

VERSIONS = {0x0301: "TLS 1.0", 0x0302: "TLS 1.1", 0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}

CIPHER_SUITES = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
    0x1304: "TLS_AES_128_CCM_SHA256",
    0x1305: "TLS_AES_128_CCM_8_SHA256",
}

# IANA "TLS Supported Groups".
GROUPS = {
    23: "secp256r1",
    24: "secp384r1",
    25: "secp521r1",
    29: "X25519",
    30: "X448",
    41: "curveSM2",
    256: "ffdhe2048",
    257: "ffdhe3072",
    512: "MLKEM512",
    513: "MLKEM768",
    514: "MLKEM1024",
    4587: "SecP256r1MLKEM768",
    4588: "X25519MLKEM768",
    4589: "SecP384r1MLKEM1024",
    4590: "curveSM2MLKEM768",
}

# IANA "TLS SignatureScheme".
SIGNATURE_SCHEMES = {
    0x0201: "rsa_pkcs1_sha1",
    0x0401: "rsa_pkcs1_sha256",
    0x0501: "rsa_pkcs1_sha384",
    0x0601: "rsa_pkcs1_sha512",
    0x0403: "ecdsa_secp256r1_sha256",
    0x0503: "ecdsa_secp384r1_sha384",
    0x0603: "ecdsa_secp521r1_sha512",
    0x0804: "rsa_pss_rsae_sha256",
    0x0805: "rsa_pss_rsae_sha384",
    0x0806: "rsa_pss_rsae_sha512",
    0x0807: "ed25519",
    0x0808: "ed448",
    0x0809: "rsa_pss_pss_sha256",
    0x080A: "rsa_pss_pss_sha384",
    0x080B: "rsa_pss_pss_sha512",
    0x081A: "ecdsa_brainpoolP256r1tls13_sha256",
    0x081B: "ecdsa_brainpoolP384r1tls13_sha384",
    0x081C: "ecdsa_brainpoolP512r1tls13_sha512",
    0x0708: "sm2sig_sm3",
    0x0904: "mldsa44",
    0x0905: "mldsa65",
    0x0906: "mldsa87",
}


def named(names: dict[int, str], code: int) -> str:
    """The registry's name for ``code``, or the code itself as hexadecimal."""
    return names.get(code, f"0x{code:04x}")


def alert_name(code: int) -> str:
    """An alert's name and number: ``unknown_ca (48)``."""
    return f"{ALERTS.get(code, 'unknown alert')} ({code})"


def printable(text: str) -> str:
    """Text from the peer, made harmless for a terminal: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ServerHello(msgspec.Struct, frozen=True, kw_only=True):
    """The server's choices, as IANA's numbers.

    Attributes:
        group: The group of its key share, None before TLS 1.3.
        retry: It is a HelloRetryRequest: the client must offer another key share.
    """

    version: int
    cipher_suite: int
    group: int | None
    retry: bool


class WireFields:
    """A cursor over the bytes of a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self))

    def take(self, count: int) -> bytes:
        """The next bytes; so many, or ValueError."""
        end = self._at + count
        if end > len(self._data):
            raise ValueError("truncated")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        """A number of so many bytes."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> WireFields:
        """What stands behind its own length, which takes so many bytes."""
        return WireFields(self.take(self.number(length_size)))

    def extensions(self) -> dict[int, WireFields]:
        """Extensions by their type."""
        found: dict[int, WireFields] = {}
        block = self.vector(2)
        while block:
            kind = block.number(2)
            found[kind] = block.vector(2)
        return found


def parse_server_hello(body: bytes) -> ServerHello | None:
    """Read a ServerHello or HelloRetryRequest; None if it is malformed."""
    try:
        fields = WireFields(body)
        legacy_version = fields.number(2)
        retry = fields.take(32) == _RETRY_RANDOM
        fields.vector(1)
        cipher_suite = fields.number(2)
        fields.number(1)
        extensions = fields.extensions() if fields else {}
        version = extensions.get(_SUPPORTED_VERSIONS)
        share = extensions.get(_KEY_SHARE)
        return ServerHello(
            version=version.number(2) if version else legacy_version,
            cipher_suite=cipher_suite,
            group=share.number(2) if share else None,
            retry=retry,
        )
    except ValueError:
        return None


def offered_groups(client_hello: bytes) -> tuple[int, ...]:
    """The groups of a ClientHello's key shares, in order of preference."""
    groups: list[int] = []
    try:
        fields = WireFields(client_hello)
        fields.take(2 + 32)
        for length_size in (1, 2, 1):  # session id, cipher suites, compression methods
            fields.vector(length_size)
        extension = fields.extensions().get(_KEY_SHARE)
        shares = extension.vector(2) if extension else WireFields(b"")
        while shares:
            groups.append(shares.number(2))
            shares.vector(2)
    except ValueError:
        return ()
    return tuple(groups)


def parse_certificate(body: bytes) -> tuple[bytes, ...]:
    """The DER certificates of a Certificate message, leaf first; none if it is malformed."""
    chain: list[bytes] = []
    try:
        fields = WireFields(body)
        fields.vector(1)
        entries = fields.vector(3)
        while entries:
            size = entries.number(3)
            chain.append(entries.take(size))
            entries.vector(2)
    except ValueError:
        return ()
    return tuple(chain)


def signature_scheme(certificate_verify: bytes) -> int | None:
    """The scheme of a CertificateVerify message."""
    if len(certificate_verify) < 2:  # noqa: PLR2004 - a SignatureScheme is two bytes
        return None
    return int.from_bytes(certificate_verify[:2], "big")


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One message, alert or piece of data as it was on the wire.

    Attributes:
        content: None if the record could not be decrypted.
        message: The handshake message's type, if it is one.
        body: The content without headers.
        size: Bytes of the message with its header, without the record's header and protection.
        encrypted: Others on the path could not read it.
    """

    content: ContentType | None
    message: int | None = None
    body: bytes
    size: int
    encrypted: bool


class RecordSplitter:
    """Splits a byte stream into TLS records (RFC 8446 section 5.1)."""

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def pending(self) -> bytes:
        """The bytes after the last complete record."""
        return self._buffer

    @property
    def is_tls(self) -> bool:
        """Whether the pending bytes can be the beginning of a record."""
        kind, major = self._buffer[:1], self._buffer[1:2]
        return (not kind or kind[0] in _CONTENT_TYPES) and (not major or major[0] == _TLS_MAJOR)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes; yield the records that are now complete, including headers."""
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
        """Add a line ``LABEL CLIENT_RANDOM SECRET`` from OpenSSL's key log callback."""
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
    """One side's sending state: its keys, record numbers and incomplete message."""

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
        """The inner plaintext (content, type, padding); None if the record can't be decrypted."""
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
        """The messages that this fragment completes (records may split them, section 5.1)."""
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
        """Change keys when the protocol does: after Finished and after KeyUpdate."""
        if message == HandshakeType.FINISHED:
            self._application, self._secret, self._sequence = True, None, 0
        elif message == HandshakeType.KEY_UPDATE and self._secret and suite:
            size = suite.hash.digest_size
            self._secret = suite.expand(self._secret, b"traffic upd", size)
            self._sequence = 0


class WireTap:
    """Decrypts the records of one connection, in the order of sending and receiving."""

    def __init__(self, secrets: Secrets) -> None:
        self._directions = {side: _Direction(side, secrets) for side in TlsRole}
        self._suite: _Suite | None = None
        self._agreed = False

    def read(self, sender: TlsRole, record: bytes) -> Iterator[Unit]:
        """The units in the record; OpenSSL must have processed it before, so its keys are known.

        ChangeCipherSpec is left out: TLS 1.3 only sends it for compatibility with middleboxes.
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
            # After its ServerHello a server sends nothing in the clear: an intruder did.
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
