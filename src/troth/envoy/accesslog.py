"""The access logs of troth's listeners: the Envoy configuration whose lines `parse` reads.

Every connection is reported once, by one of two logs:

- that of an inbound tcp_proxy, when the connection has reached the app (so at its start, however
  long it lives): `connected_access_log`, with `connected_log_options` beside it;
- that of the listener, when a connection has ended that never reached its upstream, be it that no
  filter chain matched, the handshake failed or nothing listened there: `failed_access_log`.

A connection of the tunnel whose client has vanished is reported a second time, by the latter. A
server that has vanished, or a client in plaintext, can't be told of: to Envoy's access log such an
end is like any other.

Both write to the same file, a FIFO that the agent reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as log_type_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import struct_pb2

from troth.envoy.events import GIVEN_UP, LOG_FORMAT, POD_STATE, Role
from troth.envoy.resources import Message, pack

if TYPE_CHECKING:
    from pathlib import Path

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
