"""The few filters that troth's listeners are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2
from envoy.config.core.v3 import substitution_format_string_pb2 as format_pb2
from envoy.config.listener.v3 import listener_components_pb2 as components_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.original_src.v3 import original_src_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import hash_policy_pb2
from google.protobuf import duration_pb2, wrappers_pb2
from google.protobuf.json_format import MessageToDict
from xds.type.v3 import typed_struct_pb2

from troth.envoy.accesslog import connected_log_options
from troth.envoy.resources import Message, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARED_ONCE = value_pb2.FilterStateValue.SharedWithUpstream.ONCE
SHARED_TRANSITIVE = value_pb2.FilterStateValue.SharedWithUpstream.TRANSITIVE

FROM_STATE = "from filter state"
"""The cluster of a `tcp_proxy` whose connections carry the real one as filter state."""


def state(key: str, text: str, *, shared: int = 0, factory: str = "") -> Message:
    """One filter state object set from a format string when a connection starts.

    Args:
        key: The object's key; Envoy gives well-known keys a meaning.
        text: A format string with command operators.
        shared: Whether the next upstream connection (or all behind it) sees the object too.
        factory: How to make an object under a key that Envoy doesn't know.
    """
    return value_pb2.FilterStateValue(
        object_key=key,
        factory_key=factory,
        format_string=format_pb2.SubstitutionFormatString(
            text_format_source=base_pb2.DataSource(inline_string=text)
        ),
        shared_with_upstream=shared,
    )


def set_filter_state(*values: Message, after_handshake: Sequence[Message] = ()) -> Message:
    """The network filter that sets ``values`` on each new connection.

    Args:
        values: What it sets at once.
        after_handshake: What it sets when the client's TLS handshake is complete.
    """
    config = set_filter_state_pb2.Config(on_new_connection=list(values))
    if not after_handshake:
        return _network_filter("troth.state", config)
    # The generated class lacks that list, so here it is as JSON.
    fields = MessageToDict(config, preserving_proto_field_name=True)
    fields["on_downstream_tls_handshake"] = [
        MessageToDict(value, preserving_proto_field_name=True) for value in after_handshake
    ]
    struct = typed_struct_pb2.TypedStruct(type_url=pack(config).type_url)
    struct.value.update(fields)
    return _network_filter("troth.state", struct)


def tcp_proxy(
    cluster: str,
    log: list[Message] | None = None,
    *,
    late: bool = False,
    or_state: bool = False,
    by_client: bool = False,
) -> Message:
    """Bytes both ways, for as long as both ends like.

    Args:
        cluster: Where to, unless filter state says otherwise.
        log: The access log to write when the upstream connection stands.
        late: Dial only after the TLS handshake, so that no byte and no connection reaches the
            app on behalf of a client that isn't authenticated.
        or_state: When no connection comes about there, make one to the cluster that filter state
            names by then.
        by_client: Clusters that balance by a hash get that of the client's IP; others don't ask.
    """
    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix="tcp",
        cluster=cluster,
        # A proxy nobody asked for must not end connections that the two apps keep idle.
        idle_timeout=duration_pb2.Duration(seconds=0),
    )
    if or_state:
        proxy.max_connect_attempts.value = 2
    if by_client:
        source = hash_policy_pb2.HashPolicy.SourceIp()
        proxy.hash_policy.append(hash_policy_pb2.HashPolicy(source_ip=source))
    if log:
        proxy.access_log.extend(log)
        proxy.access_log_options.CopyFrom(connected_log_options())
    if late:
        proxy.upstream_connect_mode = tcp_proxy_pb2.UpstreamConnectMode.ON_DOWNSTREAM_TLS_HANDSHAKE
        proxy.max_early_data_bytes.CopyFrom(wrappers_pb2.UInt32Value(value=0))
    return _network_filter("tcp_proxy", proxy)


def original_dst() -> Message:
    """The listener filter that finds where a redirected connection was going."""
    return _listener_filter("original_dst", original_dst_pb2.OriginalDst())


def original_src(mark: int) -> Message:
    """The listener filter that has upstream connections come from the client's own address.

    Args:
        mark: SO_MARK of those upstream connections.
    """
    return _listener_filter("original_src", original_src_pb2.OriginalSrc(mark=mark))


def tls_inspector() -> Message:
    """The listener filter that reads a ClientHello's server name."""
    return _listener_filter("tls_inspector", tls_inspector_pb2.TlsInspector())


def _listener_filter(name: str, config: Message) -> Message:
    return components_pb2.ListenerFilter(name=name, typed_config=pack(config))


def _network_filter(name: str, config: Message) -> Message:
    """A network filter of a filter chain."""
    return components_pb2.Filter(name=name, typed_config=pack(config))
