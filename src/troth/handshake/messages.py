"""The few fields of TLS 1.3 messages (RFC 8446 section 4) that a trace shows.

OpenSSL judges the handshake; this only describes it. So a field that can't be read is left out and
never an error.
"""

from __future__ import annotations

import hashlib

import msgspec

_SUPPORTED_VERSIONS, _KEY_SHARE = 43, 51
# RFC 8446 section 4.1.3: a HelloRetryRequest is a ServerHello with this as its random.
_RETRY_RANDOM = hashlib.sha256(b"HelloRetryRequest").digest()


class ServerHello(msgspec.Struct, frozen=True, kw_only=True):
    """What the server chose, by IANA's numbers.

    Attributes:
        group: The group of its key share, None before TLS 1.3.
        retry: It is a HelloRetryRequest: the client must offer another key share.
    """

    version: int
    cipher_suite: int
    group: int | None
    retry: bool


class _Fields:
    """A cursor over the bytes of a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise ValueError("truncated")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> _Fields:
        return _Fields(self.take(self.number(length_size)))

    def extensions(self) -> dict[int, _Fields]:
        found: dict[int, _Fields] = {}
        block = self.vector(2)
        while block:
            kind = block.number(2)
            found[kind] = block.vector(2)
        return found


def parse_server_hello(body: bytes) -> ServerHello | None:
    """Read a ServerHello or HelloRetryRequest; None if it is malformed."""
    try:
        fields = _Fields(body)
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
    """The groups for which a ClientHello carries key shares, in order of preference."""
    groups: list[int] = []
    try:
        fields = _Fields(client_hello)
        fields.take(2 + 32)
        for length_size in (1, 2, 1):  # session id, cipher suites, compression methods
            fields.vector(length_size)
        extension = fields.extensions().get(_KEY_SHARE)
        shares = extension.vector(2) if extension else _Fields(b"")
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
        fields = _Fields(body)
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
