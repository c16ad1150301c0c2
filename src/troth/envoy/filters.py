"""The parts of troth's listeners: a few filters, and matchers that choose a filter chain."""

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
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.type.v3 import hash_policy_pb2
from google.protobuf import duration_pb2, wrappers_pb2
from google.protobuf.json_format import MessageToDict
from xds.core.v3 import cidr_pb2, extension_pb2
from xds.type.matcher.v3 import ip_pb2, matcher_pb2, regex_pb2, string_pb2
from xds.type.v3 import typed_struct_pb2

from troth.envoy.accesslog import connected_log_options
from troth.envoy.resources import Message, pack
from troth.mesh.ports import APP_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Never a legitimate destination: capture excludes connections inside the pod."""

REFUSED = "refused"
"""No chain has this name, so choosing it refuses the connection."""


def choose_chain(name: str) -> Message:
    """A matcher's action: use the filter chain called ``name``.

    If no chain has the name, the connection is refused.
    """
    return matcher_pb2.Matcher.OnMatch(
        action={
            "name": name,
            "typed_config": pack(wrappers_pb2.StringValue(value=name)),
        }
    )


def choose_matcher(matcher: Message) -> Message:
    """A matcher's action: continue with ``matcher``."""
    return matcher_pb2.Matcher.OnMatch(matcher=matcher)


def match_input(name: str, config: Message) -> Message:
    """A matcher's input."""
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(config))


def match_exact(
    looks_at: Message, cases: dict[str, Message], otherwise: Message | None = None
) -> Message:
    """A matcher that looks a value up in a map."""
    matcher = matcher_pb2.Matcher(
        matcher_tree=matcher_pb2.Matcher.MatcherTree(
            input=looks_at,
            exact_match_map=matcher_pb2.Matcher.MatcherTree.MatchMap(map=cases),
        )
    )
    if otherwise is not None:
        matcher.on_no_match.CopyFrom(otherwise)
    return matcher


def match_whole(looks_at: Message, regex: str, then: Message) -> Message:
    """A matcher that continues with ``then`` if ``regex`` (RE2) matches the whole input."""
    predicate = matcher_pb2.Matcher.MatcherList.Predicate
    pattern = regex_pb2.RegexMatcher(google_re2=regex_pb2.RegexMatcher.GoogleRE2(), regex=regex)
    return matcher_pb2.Matcher(
        matcher_list=matcher_pb2.Matcher.MatcherList(
            matchers=[
                matcher_pb2.Matcher.MatcherList.FieldMatcher(
                    predicate=predicate(
                        single_predicate=predicate.SinglePredicate(
                            input=looks_at, value_match=string_pb2.StringMatcher(safe_regex=pattern)
                        )
                    ),
                    on_match=then,
                )
            ]
        )
    )


def match_range(networks: Iterable[str], then: Message) -> bytes:
    """A part for `match_ranges`: some networks and addresses, and their action ``then``."""
    ranges = list(map(_cidr, networks))
    if not ranges:
        return b""
    found = ip_pb2.IPMatcher.IPRangeMatcher(ranges=ranges, on_match=then)
    part: bytes = ip_pb2.IPMatcher(range_matchers=[found]).SerializeToString(deterministic=True)
    return part


def match_ranges(parts: Iterable[bytes], otherwise: Message) -> Message:
    """A matcher by the most specific network that contains the destination's address.

    Its parts can be cached: serialized messages concatenated are one message with the fields of
    all, which is much cheaper than copying messages.
    """
    ranges = b"".join(parts)
    if not ranges:
        return matcher_pb2.Matcher(on_no_match=otherwise)
    matcher = match_input("ip", ip_pb2.IPMatcher())
    matcher.typed_config.value = ranges
    return matcher_pb2.Matcher(
        matcher_tree=matcher_pb2.Matcher.MatcherTree(input=DESTINATION_IP, custom_match=matcher),
        on_no_match=otherwise,
    )


def _cidr(network: str) -> Message:
    address, _, length = network.partition("/")
    bits = int(length) if length else _BITS[":" in address]
    return cidr_pb2.CidrRange(
        address_prefix=address, prefix_len=wrappers_pb2.UInt32Value(value=bits)
    )


_BITS = {False: 32, True: 128}
"""Prefix lengths of an IPv4 address, and of an IPv6 one."""

DESTINATION_IP = match_input("ip", network_inputs_pb2.DestinationIPInput())
DESTINATION_PORT = match_input("port", network_inputs_pb2.DestinationPortInput())
SERVER_NAME = match_input("server-name", network_inputs_pb2.ServerNameInput())


SHARED_ONCE = value_pb2.FilterStateValue.SharedWithUpstream.ONCE
SHARED_TRANSITIVE = value_pb2.FilterStateValue.SharedWithUpstream.TRANSITIVE

FROM_STATE = "from filter state"
"""The cluster of a `tcp_proxy` whose connections have the real one in their filter state."""


def state(key: str, text: str, *, shared: int = 0, factory: str = "") -> Message:
    """One filter state object set from a format string when a connection starts.

    Args:
        key: The object's key; Envoy gives well-known keys a meaning.
        text: A format string with command operators.
        shared: Whether the next upstream connection (or all further ones) sees the object, too.
        factory: The object's factory, for a key that Envoy doesn't know.
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
    # The generated class lacks that field, so it is set from JSON.
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
    """Forward bytes both ways, without a timeout.

    Args:
        cluster: The destination, unless filter state overrides it.
        log: The access log, written when the upstream connection is established.
        late: Connect only after the TLS handshake, so that no connection reaches the app for an
            unauthenticated client.
        or_state: If the connection fails, try the cluster that filter state names by then.
        by_client: Hash the client's IP for clusters that balance by a hash; others ignore it.
    """
    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix="tcp",
        cluster=cluster,
        # A transparent proxy must not end connections that the two apps keep idle.
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
    """The listener filter that restores a redirected connection's original destination."""
    return _listener_filter("original_dst", original_dst_pb2.OriginalDst())


def original_src() -> Message:
    """The listener filter that makes upstream connections from the client's own address."""
    return _listener_filter("original_src", original_src_pb2.OriginalSrc(mark=APP_MARK))


def tls_inspector() -> Message:
    """The listener filter that reads a ClientHello's server name."""
    return _listener_filter("tls_inspector", tls_inspector_pb2.TlsInspector())


def _listener_filter(name: str, config: Message) -> Message:
    return components_pb2.ListenerFilter(name=name, typed_config=pack(config))


def _network_filter(name: str, config: Message) -> Message:
    """A network filter of a filter chain."""
    return components_pb2.Filter(name=name, typed_config=pack(config))
