"""Who sends what in a TLS 1.3 handshake: the names IANA and RFC 8446 give things."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class TlsRole(StrEnum):
    """An end of the connection."""

    CLIENT = "client"
    SERVER = "server"


class ContentType(IntEnum):
    """``ContentType`` of a record, RFC 8446 section 5.1."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


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


KINDS: dict[int | None, Kind] = {
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

CLOSE_NOTIFY = 0

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
"""Alerts by which a peer says that it is the certificate (or its proof) that it refuses."""

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
    256: "ffdhe2048",
    257: "ffdhe3072",
    512: "MLKEM512",
    513: "MLKEM768",
    514: "MLKEM1024",
    4587: "SecP256r1MLKEM768",
    4588: "X25519MLKEM768",
    4589: "SecP384r1MLKEM1024",
}

# IANA "TLS SignatureScheme".
SIGNATURE_SCHEMES = {
    0x0403: "ecdsa_secp256r1_sha256",
    0x0503: "ecdsa_secp384r1_sha384",
    0x0603: "ecdsa_secp521r1_sha512",
    0x0804: "rsa_pss_rsae_sha256",
    0x0805: "rsa_pss_rsae_sha384",
    0x0806: "rsa_pss_rsae_sha512",
    0x0807: "ed25519",
    0x0808: "ed448",
    0x0904: "mldsa44",
    0x0905: "mldsa65",
    0x0906: "mldsa87",
}


def named(names: dict[int, str], code: int) -> str:
    """The registry's name for ``code``, or the code itself as hexadecimal."""
    return names.get(code, f"0x{code:04x}")


def alert_name(code: int) -> str:
    """An alert as people quote it: ``unknown_ca (48)``."""
    return f"{ALERTS.get(code, 'unknown alert')} ({code})"


def printable(text: str) -> str:
    """Text from the peer, made harmless for a terminal: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
