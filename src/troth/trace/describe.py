"""What is worth knowing about a message, in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.trace import messages
from troth.trace.certificates import describe_certificate
from troth.trace.names import (
    CIPHER_SUITES,
    CLOSE_NOTIFY,
    GROUPS,
    KINDS,
    SIGNATURE_SCHEMES,
    VERSIONS,
    ContentType,
    Kind,
    alert_name,
    named,
)

if TYPE_CHECKING:
    from troth.trace.wire import Unit

_ALERT_SIZE = 2


def describe(unit: Unit) -> tuple[Kind, str]:
    """What a unit from the wire is, and its detail (empty where its kind says it all)."""
    match unit.content:
        case ContentType.HANDSHAKE:
            return _describe_message(unit)
        case ContentType.APPLICATION_DATA:
            return Kind.APPLICATION_DATA, ""
        case ContentType.ALERT if len(unit.body) == _ALERT_SIZE:
            code = unit.body[1]
            return (
                (Kind.CLOSE_NOTIFY, "")
                if code == CLOSE_NOTIFY
                else (
                    Kind.ALERT,
                    alert_name(code),
                )
            )
        case _:
            return Kind.UNREADABLE, ""


def _describe_message(unit: Unit) -> tuple[Kind, str]:
    kind = KINDS.get(unit.message, Kind.OTHER_MESSAGE)
    match kind:
        case Kind.CLIENT_HELLO:
            return kind, ", ".join(named(GROUPS, g) for g in messages.offered_groups(unit.body))
        case Kind.SERVER_HELLO:
            return _describe_server_hello(unit.body)
        case Kind.CERTIFICATE:
            chain = messages.parse_certificate(unit.body)
            leaf = describe_certificate(chain[0]) if chain else None
            detail = (leaf.spiffe_id or leaf.subject) if leaf else ""
            return kind if chain else Kind.EMPTY_CERTIFICATE, detail
        case Kind.CERTIFICATE_VERIFY:
            scheme = messages.signature_scheme(unit.body)
            return kind, named(SIGNATURE_SCHEMES, scheme) if scheme is not None else ""
        case Kind.OTHER_MESSAGE:
            return kind, f"type {unit.message}"
        case _:
            return kind, ""


def _describe_server_hello(body: bytes) -> tuple[Kind, str]:
    hello = messages.parse_server_hello(body)
    if hello is None:
        return Kind.SERVER_HELLO, "malformed"
    group = "" if hello.group is None else named(GROUPS, hello.group)
    if hello.retry:
        return Kind.HELLO_RETRY_REQUEST, group
    suite = named(CIPHER_SUITES, hello.cipher_suite)
    version = named(VERSIONS, hello.version)
    return Kind.SERVER_HELLO, ", ".join(filter(None, (version, suite, group)))
