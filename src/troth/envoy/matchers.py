"""Matchers (``xds.type.matcher.v3``) by which a listener chooses one of its filter chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from google.protobuf import wrappers_pb2
from xds.core.v3 import cidr_pb2, extension_pb2
from xds.type.matcher.v3 import ip_pb2, matcher_pb2, regex_pb2, string_pb2

from troth.envoy.resources import Message, pack

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Never a connection's honest destination: capture leaves what stays inside the pod alone."""

REFUSED = "refused"
"""No chain has this name, so to choose it refuses the connection."""


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


def match_whole(looks_at: Message, regex: str, then: Message) -> Message:
    """A matcher that goes on to ``then`` where ``regex`` (RE2) matches from end to end."""
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
    """What leads to ``then`` from some networks and addresses: a part for `match_ranges`."""
    ranges = list(map(_cidr, networks))
    if not ranges:
        return b""
    found = ip_pb2.IPMatcher.IPRangeMatcher(ranges=ranges, on_match=then)
    part: bytes = ip_pb2.IPMatcher(range_matchers=[found]).SerializeToString(deterministic=True)
    return part


def match_ranges(parts: Iterable[bytes], otherwise: Message) -> Message:
    """A matcher that finds the most specific network that the destination's address is in.

    Its parts can be kept: messages that are written out one after the other are one message with
    the fields of all, which costs nothing of what it would to copy them.
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
"""Of an IPv4 address, and of an IPv6 one."""

DESTINATION_IP = match_input("ip", network_inputs_pb2.DestinationIPInput())
DESTINATION_PORT = match_input("port", network_inputs_pb2.DestinationPortInput())
SERVER_NAME = match_input("server-name", network_inputs_pb2.ServerNameInput())
