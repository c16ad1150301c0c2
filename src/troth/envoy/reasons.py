"""Why a connection came to nothing: from Envoy's phrases and flags to stable reason codes."""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import TYPE_CHECKING

from troth.mesh.connections import Outcome, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping


class Role(StrEnum):
    """What a listener is for; stands in every line of its access log."""

    TUNNEL_IN = "tunnel-in"
    PLAIN_IN = "plain-in"
    OUTBOUND = "outbound"


_PHRASES: tuple[tuple[str, Reason], ...] = (
    # Names of the peer's choice follow these two, so they are looked for before all else.
    ("verify_SAN_list", Reason.WRONG_SERVER_IDENTITY),
    ("SAN_matcher", Reason.WRONG_CLIENT_IDENTITY),
    ("not_supplied_by_SDS", Reason.NO_CERTIFICATE_YET),
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", Reason.NO_CLIENT_CERTIFICATE),
    ("certificate_has_expired", Reason.CERTIFICATE_EXPIRED),
    ("certificate_is_not_yet_valid", Reason.CERTIFICATE_NOT_YET_VALID),
    ("unable_to_get_local_issuer_certificate", Reason.UNKNOWN_AUTHORITY),
    ("unable_to_get_issuer_certificate", Reason.UNKNOWN_AUTHORITY),
    ("unable_to_verify_the_first_certificate", Reason.UNKNOWN_AUTHORITY),
    ("self-signed_certificate", Reason.UNKNOWN_AUTHORITY),
    ("self_signed_certificate", Reason.UNKNOWN_AUTHORITY),
    ("certificate_signature_failure", Reason.UNKNOWN_AUTHORITY),
    ("CERTIFICATE_VERIFY_FAILED", Reason.CERTIFICATE_INVALID),
    ("_ALERT_", Reason.REFUSED_BY_PEER),
    ("HTTP_REQUEST", Reason.NOT_TLS),
    ("WRONG_VERSION_NUMBER", Reason.NOT_TLS),
    ("UNSUPPORTED_PROTOCOL", Reason.TLS_PARAMETERS),
    ("NO_SHARED_CIPHER", Reason.TLS_PARAMETERS),
    ("NO_SHARED_GROUP", Reason.TLS_PARAMETERS),
    ("NO_APPLICATION_PROTOCOL", Reason.TLS_PARAMETERS),
    ("system_library", Reason.NO_HANDSHAKE),
    ("transport socket timeout", Reason.NO_HANDSHAKE),
    ("TLS_error", Reason.HANDSHAKE_FAILED),
)
"""Phrases of ``%DOWNSTREAM_/UPSTREAM_TRANSPORT_FAILURE_REASON%``; the first that occurs counts."""

_SYSTEM_LIBRARY = 2 << 24  # BoringSSL's number for errors that are the kernel's

GIVEN_UP: Mapping[str, str] = {
    f"|{_SYSTEM_LIBRARY | errno.ETIMEDOUT}:": "Connection timed out",
    f"|{_SYSTEM_LIBRARY | errno.EHOSTUNREACH}:": "No route to host",
    f"|{_SYSTEM_LIBRARY | errno.ENETUNREACH}:": "Network is unreachable",
}
"""What stands in a TLS failure text when the kernel has given the peer up, and the kernel's words.

The last two are in place of the first where a router has said why nothing comes back.
"""

_FLAGS: tuple[tuple[str, Role, Reason], ...] = (
    ("NR", Role.PLAIN_IN, Reason.PLAINTEXT_TO_STRICT),
    ("NR", Role.TUNNEL_IN, Reason.BAD_SERVER_NAME),
    ("NR", Role.OUTBOUND, Reason.NOT_CONFIGURED),
    ("NC", Role.TUNNEL_IN, Reason.NOT_CONFIGURED),
    ("NC", Role.PLAIN_IN, Reason.NOT_CONFIGURED),
    ("NC", Role.OUTBOUND, Reason.NOT_CONFIGURED),
    ("UF", Role.TUNNEL_IN, Reason.APP_UNREACHABLE),
    ("UF", Role.PLAIN_IN, Reason.APP_UNREACHABLE),
    ("UF", Role.OUTBOUND, Reason.UNREACHABLE),
    ("UH", Role.TUNNEL_IN, Reason.APP_UNREACHABLE),
    ("UH", Role.PLAIN_IN, Reason.APP_UNREACHABLE),
    ("UH", Role.OUTBOUND, Reason.NO_ENDPOINTS),
)
"""``%RESPONSE_FLAGS%`` by the listener's role, for connections without a TLS failure."""

_FAILURES = frozenset(
    {
        Reason.APP_UNREACHABLE,
        Reason.UNREACHABLE,
        Reason.NO_ENDPOINTS,
        Reason.NOT_CONFIGURED,
        Reason.NO_CERTIFICATE_YET,
    }
)
"""What is no refusal: nobody's identity or policy was in question."""


def reason_of(
    role: Role, flags: frozenset[str], words: str, *, names_a_port: bool
) -> tuple[Outcome, Reason] | None:
    """Say why a connection that never reached its upstream did not.

    Args:
        role: The listener's.
        flags: Envoy's response flags.
        words: Envoy's failure text, empty if it has none.
        names_a_port: Whether the server name (in the tunnel) is a port number.

    Returns:
        Outcome and reason, or None when the client left before anything was decided.
    """
    reason = next((code for phrase, code in _PHRASES if phrase in words), None)
    if reason is Reason.WRONG_CLIENT_IDENTITY and role is Role.OUTBOUND:
        reason = Reason.WRONG_SERVER_IDENTITY
    if reason is None:
        reason = next((code for flag, at, code in _FLAGS if at is role and flag in flags), None)
        if role is Role.TUNNEL_IN and "UH" in flags and not names_a_port:
            reason = Reason.BAD_SERVER_NAME
    if reason is None:
        if flags or words:
            reason = Reason.OTHER
        elif role is Role.TUNNEL_IN:
            reason = Reason.NO_HANDSHAKE
        else:
            return None
    return (Outcome.FAILED if reason in _FAILURES else Outcome.REFUSED), reason
