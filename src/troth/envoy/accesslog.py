"""The access logs of troth's listeners: their configuration, and the meaning of a line.

Every connection is reported once, by one of two logs:

- an inbound tcp_proxy's log, when the connection has reached the app (so at its start, however
  long it lives): `connected_access_log`, together with `connected_log_options`;
- the listener's log, at the end of a connection that never reached its upstream because no filter
  chain matched, the handshake failed or nothing listened there: `failed_access_log`.

The listener's log reports a tunnel connection a second time if its client has vanished. A vanished
server, or a vanished client in plaintext, isn't reported: in Envoy's access log such an end looks
like any other.

Both write to the same file, a FIFO that the agent reads. `LOG_FORMAT` defines a line's fields;
`parse` turns it into a `ConnectionReport`.

Peers control parts of these lines: server names, certificate names, and through them the failure
texts. So the texts are only compared with Envoy's fixed phrases, which become stable reason codes
(`reason_of`), and an identity counts only if TLS proved it.
"""

from __future__ import annotations

import errno
import ipaddress
import re
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as log_type_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import struct_pb2

from troth.envoy.resources import Message, pack
from troth.errors import InputError
from troth.identity.spiffe import SpiffeId
from troth.mesh.ports import OWN_PORTS
from troth.traffic.connection import Connection, ConnectionReport, Outcome, Party, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Role(StrEnum):
    """A listener's purpose, a field of every line of its access log."""

    TUNNEL_IN = "tunnel-in"
    PLAIN_IN = "plain-in"
    OUTBOUND = "outbound"


_PHRASES: tuple[tuple[str, Reason], ...] = (
    # Names chosen by the peer follow these two, so they are compared first.
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
"""Phrases of ``%DOWNSTREAM_/UPSTREAM_TRANSPORT_FAILURE_REASON%``; the first match counts."""

_SYSTEM_LIBRARY = 2 << 24  # BoringSSL's number for the kernel's errors

GIVEN_UP: Mapping[str, str] = {
    f"|{_SYSTEM_LIBRARY | errno.ETIMEDOUT}:": "Connection timed out",
    f"|{_SYSTEM_LIBRARY | errno.EHOSTUNREACH}:": "No route to host",
    f"|{_SYSTEM_LIBRARY | errno.ENETUNREACH}:": "Network is unreachable",
}
"""Parts of a TLS failure text after the kernel timed the peer out, with the kernel's messages.

The last two replace the first if a router reports why the peer is unreachable.
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
"""Reasons that are failures, not refusals: no identity or policy was in question."""


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
        Outcome and reason, or None if the client left before a decision.
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


POD_STATE = "troth.pod"
"""The filter state object with the pod's UID, for listeners that pods share."""

LOG_FORMAT: Mapping[str, str] = {
    "t": "%START_TIME%",
    "type": "%ACCESS_LOG_TYPE%",
    "chain": "%FILTER_CHAIN_NAME%",
    "src": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "dst": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "sni": "%REQUESTED_SERVER_NAME%",
    "flags": "%RESPONSE_FLAGS%",
    "dfail": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "ufail": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
    "cipher": "%DOWNSTREAM_TLS_CIPHER%",
    "group": "%DOWNSTREAM_TLS_GROUP%",
    "host": "%UPSTREAM_HOST%",
    "up": "%UPSTREAM_LOCAL_ADDRESS%",
    "ms": "%DURATION%",
    "term": "%CONNECTION_TERMINATION_DETAILS%",
}
"""The JSON format of an access log, without ``role`` and ``pod``, which the builders add."""

_CONNECTED = "TcpUpstreamConnected"
_MAX_DETAIL = 1024
_MAX_SPIFFE_ID = 2048  # the standard's, section 2.3; longer ones are invalid, and not cached
_SERVER_SANS = re.compile(r"_certificate_SANs:_\[(?P<san>[^\],]+)\]")


class _Line(msgspec.Struct, frozen=True):
    """A line in `LOG_FORMAT`; Envoy omits or nulls what a connection doesn't have."""

    t: datetime
    role: Role
    src: str
    dst: str
    type: str | None = None
    pod: str | None = None
    chain: str | None = None
    sni: str | None = None
    flags: str | None = None
    dfail: str | None = None
    ufail: str | None = None
    peer: str | None = None
    tls: str | None = None
    cipher: str | None = None
    group: str | None = None
    host: str | None = None
    up: str | None = None
    ms: int = 0
    term: str | None = None


_decoder = msgspec.json.Decoder(_Line)


def parse(line: bytes) -> ConnectionReport | None:
    """Read one line of the access log.

    Returns:
        The report, or None for a line without a decision: the end of a connection that was reported
        at its beginning, or of a client that left before a decision.

    Raises:
        ValueError: The line isn't in `LOG_FORMAT`.
    """
    try:
        entry = _decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no access log line of troth's: {error}") from error
    flags = frozenset(_text(entry.flags).split(",")) - {""}
    if entry.type == _CONNECTED:
        # This flag only announces a reset; the connection's end is reported.
        return None if "UF" in flags else _connected(entry)
    if _text(entry.up):
        return _given_up(entry)  # its beginning has been reported
    asked = port_of_server_name(_text(entry.sni))
    words = _text(entry.ufail) or _text(entry.dfail) or _text(entry.term)
    verdict = reason_of(entry.role, flags, words, names_a_port=asked is not None)
    if verdict is None:
        return None
    outcome, reason = verdict
    if "NR" in flags and _went_to_ourselves(entry):
        outcome, reason = Outcome.REFUSED, Reason.RESERVED_PORT
    elif "NR" in flags and entry.role is Role.PLAIN_IN and _is_to_loopback(entry):
        outcome, reason, words = Outcome.REFUSED, Reason.OTHER, "came from outside for loopback"
    # Envoy connects to the app only after the handshake, so an attempt proves the peer.
    verified = not _text(entry.dfail) and bool(flags & {"UF", "UH", "NC"})
    if reason is Reason.BAD_SERVER_NAME:
        name = _text(entry.sni)
        words = f"server name {name!r}" if name else "plaintext, or TLS that names no server"
    return _report(
        entry, outcome, reason, detail=words or ",".join(sorted(flags)), verified=verified
    )


def _given_up(entry: _Line) -> ConnectionReport | None:
    """The end of a connection whose client has vanished; None for any other end."""
    failure = _text(entry.dfail)
    words = next((words for code, words in GIVEN_UP.items() if code in failure), None)
    if entry.role is not Role.TUNNEL_IN or words is None:
        return None
    ended = msgspec.structs.replace(entry, t=entry.t + timedelta(milliseconds=entry.ms))
    return _report(ended, Outcome.FAILED, Reason.PEER_VANISHED, detail=words, verified=True)


def _connected(entry: _Line) -> ConnectionReport | None:
    match entry.role:
        case Role.TUNNEL_IN:
            return _report(entry, Outcome.ACCEPTED, Reason.NONE, verified=True)
        case Role.PLAIN_IN:
            return _report(entry, Outcome.PLAINTEXT, Reason.NONE, verified=False)
        case Role.OUTBOUND:
            return None  # the server's side reports it


def _report(
    entry: _Line, outcome: Outcome, reason: Reason, *, detail: str = "", verified: bool
) -> ConnectionReport:
    source_address, source_port = _endpoint(entry.src)
    address, port = _endpoint(entry.dst)
    peer: str | None = None
    if entry.role is Role.TUNNEL_IN:
        # Envoy's upstream address is a fact, the requested one only the peer's claim.
        _, tried = _endpoint(_text(entry.host))
        port = tried or port_of_server_name(_text(entry.sni)) or port
        peer = _spiffe_id(_text(entry.peer))
    elif entry.role is Role.OUTBOUND and (found := _SERVER_SANS.search(_text(entry.ufail))):
        peer = _spiffe_id(found["san"])
    encrypted = bool(_text(entry.cipher))  # without one the version is only BoringSSL's guess
    return ConnectionReport(
        pod=_text(entry.pod),
        connection=Connection(
            time=entry.t,
            outcome=outcome,
            reason=reason,
            detail=_printable(detail),
            side=Side.CLIENT if entry.role is Role.OUTBOUND else Side.SERVER,
            source=Party(address=source_address, port=source_port),
            destination=Party(address=address, port=port),
            peer=peer if verified and entry.role is Role.TUNNEL_IN else None,
            claimed_peer=None if verified and entry.role is Role.TUNNEL_IN else peer,
            tls_version=_text(entry.tls) if encrypted else "",
            tls_cipher=_text(entry.cipher),
            tls_group=_text(entry.group) if encrypted else "",
            duration_ms=entry.ms,
        ),
    )


def _went_to_ourselves(entry: _Line) -> bool:
    """Whether a process dialled one of troth's ports instead of being redirected there."""
    if entry.role is Role.PLAIN_IN:
        return _endpoint(entry.dst)[1] in OWN_PORTS
    return entry.role is Role.OUTBOUND and _is_to_loopback(entry)


def _is_to_loopback(entry: _Line) -> bool:
    address, _ = _endpoint(entry.dst)
    return bool(address) and ipaddress.ip_address(address).is_loopback


def port_of_server_name(name: str) -> int | None:
    """The port in a tunnel's server name; None if it isn't a port number."""
    if re.fullmatch(r"[1-9][0-9]{0,4}", name, re.ASCII) and int(name) <= 0xFFFF:  # noqa: PLR2004  the highest port
        return int(name)
    return None


def _text(value: str | None) -> str:
    """A value, empty for either of Envoy's two ways to say "none"."""
    return "" if value is None or value == "-" else value


def _endpoint(text: str) -> tuple[str, int]:
    """Parse ``10.0.0.1:80`` or ``[fd00::1]:80``; anything else (an internal address) is empty."""
    host, _, port = text.rpartition(":")
    try:
        return _address(host.removeprefix("[").removesuffix("]")), int(port)
    except ValueError:
        return "", 0


# Cached, because a node's connections have few ends and identities, and parsing them for each line
# would be most of its cost. Strangers can only evict known ones from the caches.


@lru_cache(maxsize=1024)
def _address(text: str) -> str:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


def _spiffe_id(text: str) -> str | None:
    """``text`` if it is exactly one SPIFFE ID; an SVID has no second name."""
    return _read_spiffe_id(text) if len(text) <= _MAX_SPIFFE_ID else None


@lru_cache(maxsize=1024)
def _read_spiffe_id(text: str) -> str | None:
    try:
        return str(SpiffeId.parse(text))
    except InputError:
        return None


def _printable(text: str) -> str:
    """``text`` made safe to print: a peer may control parts of it."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_MAX_DETAIL]
    )


# The upstream connection's local address exists exactly if there was a connection.
# (``upstream.address`` doesn't work: it is also set for a host that refused.)
_NEVER_CONNECTED = "!has(upstream.local_address)"
_FAILURE = "connection.transport_failure_reason"
_VANISHED = " || ".join(f"{_FAILURE}.contains('{code}')" for code in GIVEN_UP)


def failed_access_log(role: Role, pod_uid: str | None, path: Path) -> list[Message]:
    """A listener's ``access_log``: connections that ended without reaching their upstream.

    The tunnel's server side also logs connections whose client has vanished.

    Args:
        role: The listener's.
        pod_uid: The listener's pod; None for a listener that pods share, where the filter state
            object `POD_STATE` has it.
        path: The FIFO.
    """
    condition = _NEVER_CONNECTED
    if role is Role.TUNNEL_IN:
        condition = f"{condition} || (has({_FAILURE}) && ({_VANISHED}))"
    expression = cel_pb2.ExpressionFilter(expression=condition)
    only = accesslog_pb2.AccessLogFilter(
        extension_filter=accesslog_pb2.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=pack(expression)
        )
    )
    return [_access_log(role, pod_uid, path, only)]


def connected_access_log(role: Role, pod_uid: str | None, path: Path) -> list[Message]:
    """A tcp_proxy's ``access_log``: what reached the app; arguments as in `failed_access_log`.

    It needs `connected_log_options` as the tcp_proxy's ``access_log_options``.
    """
    only = accesslog_pb2.AccessLogFilter(
        log_type_filter=accesslog_pb2.LogTypeFilter(types=[log_type_pb2.TcpUpstreamConnected])
    )
    return [_access_log(role, pod_uid, path, only)]


def unrouted_access_log(pod_uid: str, path: Path) -> list[Message]:
    """The ``access_log`` of a pod's outbound listener: connections without a destination.

    These are to a port that a Service doesn't have, or one without endpoints. The internal listener
    or the other end reports all others.
    """
    only = accesslog_pb2.AccessLogFilter(
        response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=["NC", "UH"])
    )
    return [_access_log(Role.OUTBOUND, pod_uid, path, only)]


def connected_log_options() -> Message:
    """The ``access_log_options`` that make a tcp_proxy log at the time it connects."""
    return tcp_proxy_pb2.TcpProxy.TcpAccessLogOptions(flush_access_log_on_connected=True)


def _access_log(role: Role, pod_uid: str | None, path: Path, only: Message) -> Message:
    pod = f"%FILTER_STATE({POD_STATE}:PLAIN)%" if pod_uid is None else pod_uid.replace("%", "%%")
    line = struct_pb2.Struct()
    line.update({**LOG_FORMAT, "role": str(role), "pod": pod})
    log = file_pb2.FileAccessLog(
        path=str(path),
        log_format=substitution_format_string_pb2.SubstitutionFormatString(
            json_format=line, omit_empty_values=True
        ),
    )
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.file", filter=only, typed_config=pack(log)
    )
