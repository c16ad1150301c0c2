"""Small constructors for the pieces of Envoy's API that several builders share."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, socket_option_pb2
from envoy.config.core.v3 import substitution_format_string_pb2 as format_pb2
from envoy.config.listener.v3 import listener_components_pb2 as listener_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from google.protobuf import any_pb2, wrappers_pb2
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import matcher_pb2

Message = Any
"""A protobuf message; the generated classes carry no types."""

SHARED_ONCE = value_pb2.FilterStateValue.SharedWithUpstream.ONCE
SHARED_TRANSITIVE = value_pb2.FilterStateValue.SharedWithUpstream.TRANSITIVE


def pack(message: Message) -> any_pb2.Any:
    """Wrap ``message`` as an Any, byte for byte the same for equal messages."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def socket_address(
    address: str, port: int, *, netns: str = "", dual_stack: bool = False
) -> Message:
    """An address, possibly in another network namespace (Envoy 1.35 and later)."""
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(
            address=address,
            port_value=port,
            network_namespace_filepath=netns,
            ipv4_compat=dual_stack,
        )
    )


def mark_option(mark: int) -> Message:
    """SO_MARK on a socket before it is bound."""
    sol_socket, so_mark = 1, 36
    return socket_option_pb2.SocketOption(
        description="troth's own traffic",
        level=sol_socket,
        name=so_mark,
        int_value=mark,
        state=socket_option_pb2.SocketOption.STATE_PREBIND,
    )


def ads() -> Message:
    """The config source "the ADS stream"."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.ApiVersion.V3,
    )


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


def set_filter_state(*values: Message) -> Message:
    """The network filter that sets ``values`` on each new connection."""
    return network_filter(
        "troth.state", set_filter_state_pb2.Config(on_new_connection=list(values))
    )


def network_filter(name: str, config: Message) -> Message:
    """A network filter of a filter chain."""
    return listener_pb2.Filter(name=name, typed_config=pack(config))


def choose_chain(name: str) -> Message:
    """A matcher's action: take the filter chain called ``name``.

    A name that no chain has refuses the connection.
    """
    return matcher_pb2.Matcher.OnMatch(
        action={
            "name": name,
            "typed_config": pack(wrappers_pb2.StringValue(value=name)),
        }
    )


def choose_matcher(matcher: Message) -> Message:
    """A matcher's action: go on with ``matcher``."""
    return matcher_pb2.Matcher.OnMatch(matcher=matcher)


def match_input(name: str, config: Message) -> Message:
    """What a matcher looks at."""
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
