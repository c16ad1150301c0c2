"""A handshake message opened to its fields, for people (RFC 8446, section 4).

Nothing here decides anything: what can't be read is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from troth.handshake.certificates import describe_certificate
from troth.handshake.record import MessageField
from troth.handshake.wire import (
    ALERT_SIZE,
    CIPHER_SUITES,
    GROUPS,
    SIGNATURE_SCHEMES,
    VERSIONS,
    ContentType,
    HandshakeType,
    WireFields,
    alert_name,
    named,
    parse_certificate,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from troth.handshake.wire import Unit

    _Read = Callable[[WireFields], Iterator[tuple[str, str]]]

_ALERT_LEVELS = {1: "warning", 2: "fatal"}
_NULL_COMPRESSION = 1
_SHOWN_BYTES = 16

# IANA "TLS ExtensionType Values", those that are met here.
_EXTENSIONS = {
    0: "server_name",
    5: "status_request",
    10: "supported_groups",
    11: "ec_point_formats",
    13: "signature_algorithms",
    16: "application_layer_protocol_negotiation",
    18: "signed_certificate_timestamp",
    21: "padding",
    22: "encrypt_then_mac",
    23: "extended_master_secret",
    27: "compress_certificate",
    35: "session_ticket",
    41: "pre_shared_key",
    42: "early_data",
    43: "supported_versions",
    44: "cookie",
    45: "psk_key_exchange_modes",
    47: "certificate_authorities",
    49: "post_handshake_auth",
    50: "signature_algorithms_cert",
    51: "key_share",
    65281: "renegotiation_info",
}


def open_message(unit: Unit) -> tuple[MessageField, ...]:
    """The fields of a message or alert, as far as they can be read."""
    reader = _READERS.get(unit.message) if unit.content is ContentType.HANDSHAKE else None
    if unit.content is ContentType.ALERT and len(unit.body) == ALERT_SIZE:
        reader = _alert
    found: list[MessageField] = []
    if reader is not None:
        try:
            found += (
                MessageField(name=name, value=printable(value))
                for name, value in reader(WireFields(unit.body))
                if value
            )
        except ValueError:
            found.append(MessageField(name="(the rest)", value="can't be read"))
    return tuple(found)


def _client_hello(fields: WireFields) -> Iterator[tuple[str, str]]:
    yield "legacy_version", named(VERSIONS, fields.number(2))
    yield "random", _hexadecimal(fields.take(32))
    yield "legacy_session_id", _hexadecimal(fields.vector(1).rest())
    yield "cipher_suites", _names(fields.vector(2), CIPHER_SUITES)
    fields.vector(_NULL_COMPRESSION)
    yield from _extensions(fields, client=True)


def _server_hello(fields: WireFields) -> Iterator[tuple[str, str]]:
    yield "legacy_version", named(VERSIONS, fields.number(2))
    yield "random", _hexadecimal(fields.take(32))
    yield "legacy_session_id_echo", _hexadecimal(fields.vector(1).rest())
    yield "cipher_suite", named(CIPHER_SUITES, fields.number(2))
    fields.take(_NULL_COMPRESSION)
    yield from _extensions(fields, client=False)


def _encrypted_extensions(fields: WireFields) -> Iterator[tuple[str, str]]:
    yield from _extensions(fields, client=False)


def _certificate_request(fields: WireFields) -> Iterator[tuple[str, str]]:
    yield "certificate_request_context", _hexadecimal(fields.vector(1).rest()) or "empty"
    yield from _extensions(fields, client=True)


def _certificate(fields: WireFields) -> Iterator[tuple[str, str]]:
    chain = parse_certificate(fields.rest())
    if not chain:
        yield "certificate_list", "empty"
    for number, der in enumerate(chain):
        at = f"certificate_list[{number}]"
        facts = describe_certificate(der)
        if facts is None:
            yield at, f"{len(der)} bytes that can't be read"
            continue
        yield f"{at}.subjectAltName", facts.spiffe_id or ""
        yield f"{at}.subject", facts.subject
        yield f"{at}.issuer", facts.issuer
        yield f"{at}.serialNumber", facts.serial
        yield (
            f"{at}.validity",
            f"{facts.not_before:%Y-%m-%d %H:%M:%S} to {facts.not_after:%Y-%m-%d %H:%M:%S} UTC",
        )
        yield f"{at}.publicKey", _public_key(der)


def _certificate_verify(fields: WireFields) -> Iterator[tuple[str, str]]:
    yield "algorithm", named(SIGNATURE_SCHEMES, fields.number(2))
    yield "signature", _hexadecimal(fields.vector(2).rest())


def _finished(fields: WireFields) -> Iterator[tuple[str, str]]:
    yield "verify_data", _hexadecimal(fields.rest())


def _new_session_ticket(fields: WireFields) -> Iterator[tuple[str, str]]:
    yield "ticket_lifetime", f"{fields.number(4)} s"
    fields.take(4)
    fields.vector(1)
    yield "ticket", _hexadecimal(fields.vector(2).rest())


def _alert(fields: WireFields) -> Iterator[tuple[str, str]]:
    yield "level", _ALERT_LEVELS.get(level := fields.number(1), str(level))
    yield "description", alert_name(fields.number(1))


_READERS: dict[int | None, _Read] = {
    HandshakeType.CLIENT_HELLO: _client_hello,
    HandshakeType.SERVER_HELLO: _server_hello,
    HandshakeType.ENCRYPTED_EXTENSIONS: _encrypted_extensions,
    HandshakeType.CERTIFICATE_REQUEST: _certificate_request,
    HandshakeType.CERTIFICATE: _certificate,
    HandshakeType.CERTIFICATE_VERIFY: _certificate_verify,
    HandshakeType.FINISHED: _finished,
    HandshakeType.NEW_SESSION_TICKET: _new_session_ticket,
}


def _extensions(fields: WireFields, *, client: bool) -> Iterator[tuple[str, str]]:
    for kind, content in fields.extensions().items() if fields else ():
        name = _EXTENSIONS.get(kind, f"extension {kind}")
        size = len(content)
        reader = (_OFFERED if client else _CHOSEN).get(name)
        yield name, reader(content) if reader else f"{size} bytes" if size else "empty"


def _server_names(fields: WireFields) -> str:
    names, found = fields.vector(2), []
    while names:
        names.number(1)
        found.append(names.vector(2).rest().decode("ascii", "replace"))
    return ", ".join(found)


def _protocols(fields: WireFields) -> str:
    names, found = fields.vector(2), []
    while names:
        found.append(names.vector(1).rest().decode("ascii", "replace"))
    return ", ".join(found)


def _key_shares(fields: WireFields) -> str:
    shares, found = fields.vector(2), []
    while shares:
        group = named(GROUPS, shares.number(2))
        found.append(f"{group} ({len(shares.vector(2))} bytes)")
    return ", ".join(found)


def _key_share(fields: WireFields) -> str:
    group = named(GROUPS, fields.number(2))
    # A HelloRetryRequest names the group alone.
    return f"{group} ({len(fields.vector(2))} bytes)" if fields else group


def _names(fields: WireFields, names: dict[int, str]) -> str:
    found = []
    while fields:
        found.append(named(names, fields.number(2)))
    return ", ".join(found)


_OFFERED: dict[str, Callable[[WireFields], str]] = {
    "server_name": _server_names,
    "supported_groups": lambda fields: _names(fields.vector(2), GROUPS),
    "signature_algorithms": lambda fields: _names(fields.vector(2), SIGNATURE_SCHEMES),
    "application_layer_protocol_negotiation": _protocols,
    "supported_versions": lambda fields: _names(fields.vector(1), VERSIONS),
    "key_share": _key_shares,
}
_CHOSEN: dict[str, Callable[[WireFields], str]] = {
    "application_layer_protocol_negotiation": _protocols,
    "supported_versions": lambda fields: named(VERSIONS, fields.number(2)),
    "key_share": _key_share,
}


def _public_key(der: bytes) -> str:
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except ValueError:
        return ""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name
    return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else type(key).__name__


def _hexadecimal(data: bytes) -> str:
    """The first of the bytes, and how many there are."""
    if not data:
        return ""
    more = "..." if len(data) > _SHOWN_BYTES else ""
    return f"{data[:_SHOWN_BYTES].hex()}{more} ({len(data)} bytes)"
