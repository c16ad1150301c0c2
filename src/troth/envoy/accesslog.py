"""The access logs of troth's listeners: how Envoy is to write them, and what a line says.

Every connection is reported once, by one of two logs:

- that of an inbound tcp_proxy, when the connection has reached the app (so at its start, however
  long it lives): `connected_access_log`, with `connected_log_options` beside it;
- that of the listener, when a connection has ended that never reached its upstream, be it that no
  filter chain matched, the handshake failed or nothing listened there: `failed_access_log`.

A connection of the tunnel whose client has vanished is reported a second time, by the latter. A
server that has vanished, or a client in plaintext, can't be told of: to Envoy's access log such an
end is like any other.

Both write to the same file, a FIFO that the agent reads. `LOG_FORMAT` says what a line holds;
`parse` turns it into a `ConnectionReport`.

Peers write parts of these lines: server names, certificate names, and through those the failure
texts. So the texts are only ever compared with Envoy's fixed phrases, which become stable reason
codes (`reason_of`), and an identity counts only where TLS proved it.
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


POD_STATE = "troth.pod"
"""The filter state object that carries the pod's UID to listeners which pods share."""

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
_MAX_SPIFFE_ID = 2048  # by the standard, section 2.3; what is longer is no ID, and not remembered
_SERVER_SANS = re.compile(r"_certificate_SANs:_\[(?P<san>[^\],]+)\]")


class _Line(msgspec.Struct, frozen=True):
    """A line as `LOG_FORMAT` lays it out; Envoy omits or nulls what a connection has not."""

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
        What it reports, or None for a line that reports no decision: a connection that was reported
        when it began and has now ended, or a client that left before anything was decided.

    Raises:
        ValueError: The line isn't what `LOG_FORMAT` makes Envoy write.
    """
    try:
        entry = _decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no access log line of troth's: {error}") from error
    flags = frozenset(_text(entry.flags).split(",")) - {""}
    if entry.type == _CONNECTED:
        # With that flag it is only about to be reset, and its end is reported.
        return None if "UF" in flags else _connected(entry)
    if _text(entry.up):
        return _given_up(entry)  # its beginning was reported
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
    # Envoy connects to the app only after the handshake, so having tried proves the peer.
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
        # Where Envoy went is the truth, what it was asked for is the peer's word.
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
    """Whether a process dialled one of troth's ports by hand instead of being led there."""
    if entry.role is Role.PLAIN_IN:
        return _endpoint(entry.dst)[1] in OWN_PORTS
    return entry.role is Role.OUTBOUND and _is_to_loopback(entry)


def _is_to_loopback(entry: _Line) -> bool:
    address, _ = _endpoint(entry.dst)
    return bool(address) and ipaddress.ip_address(address).is_loopback


def port_of_server_name(name: str) -> int | None:
    """The port that a tunnel's server name asks for, or None when it is no port number."""
    if re.fullmatch(r"[1-9][0-9]{0,4}", name, re.ASCII) and int(name) <= 0xFFFF:  # noqa: PLR2004  the highest port
        return int(name)
    return None


def _text(value: str | None) -> str:
    """A value with Envoy's two ways of saying "none" taken away."""
    return "" if value is None or value == "-" else value


def _endpoint(text: str) -> tuple[str, int]:
    """``10.0.0.1:80`` or ``[fd00::1]:80``; anything else (an internal address) has no place."""
    host, _, port = text.rpartition(":")
    try:
        return _address(host.removeprefix("[").removesuffix("]")), int(port)
    except ValueError:
        return "", 0


# A node's connections have few ends, and few identities: to parse them for each line would be most
# of what a line costs. Strangers can push known ones out of the caches, and no more.


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
    """``text`` made safe to show: a peer may have written parts of it."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_MAX_DETAIL]
    )


# The address of the upstream connection's own end exists exactly when there was a connection.
# (``upstream.address`` won't do: that is set for a host that refused, too.)
_NEVER_CONNECTED = "!has(upstream.local_address)"
_FAILURE = "connection.transport_failure_reason"
_VANISHED = " || ".join(f"{_FAILURE}.contains('{code}')" for code in GIVEN_UP)


def failed_access_log(role: Role, pod_uid: str | None, path: Path) -> list[Message]:
    """A listener's ``access_log``: what ended without having reached its upstream.

    That of the tunnel's end also has the connections whose client has vanished.

    Args:
        role: The listener's.
        pod_uid: The pod whose listener it is; None for a listener that pods share, where the
            filter state object `POD_STATE` has it.
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
    """A tcp_proxy's ``access_log``: what has reached the app; arguments as `failed_access_log`.

    It needs `connected_log_options` as the tcp_proxy's ``access_log_options``.
    """
    only = accesslog_pb2.AccessLogFilter(
        log_type_filter=accesslog_pb2.LogTypeFilter(types=[log_type_pb2.TcpUpstreamConnected])
    )
    return [_access_log(role, pod_uid, path, only)]


def unrouted_access_log(pod_uid: str, path: Path) -> list[Message]:
    """The ``access_log`` of a pod's outbound listener: what had nowhere to go.

    A port that a Service doesn't have, or one without endpoints. All else is reported further on,
    by the internal listener or by the other end.
    """
    only = accesslog_pb2.AccessLogFilter(
        response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=["NC", "UH"])
    )
    return [_access_log(Role.OUTBOUND, pod_uid, path, only)]


def connected_log_options() -> Message:
    """The ``access_log_options`` that make a tcp_proxy log when it has connected."""
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
