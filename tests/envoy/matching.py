"""What Envoy's matching API would choose, for tests of the matchers that troth builds.

Only what troth uses, after xds/type/matcher/v3 and Envoy's network inputs.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from google.protobuf import wrappers_pb2
from xds.type.matcher.v3 import ip_pb2


class Arrived(NamedTuple):
    """A new connection, as matchers see it."""

    ip: str
    port: int
    server_name: str = ""

    def input(self, looks_at: Any) -> str:
        """The value that a matcher's input gives; empty stands for no value."""
        return {
            "DestinationIPInput": self.ip,
            "DestinationPortInput": str(self.port),
            "ServerNameInput": self.server_name,
        }[looks_at.typed_config.type_url.rpartition(".")[2]]


def chosen_chain(listener: Any, arrived: Arrived) -> str | None:
    """The name of the filter chain that takes the connection; None refuses it."""
    name = _choose(listener.filter_chain_matcher, arrived)
    return name if name in {chain.name for chain in listener.filter_chains} else None


def _choose(matcher: Any, arrived: Arrived) -> str | None:
    on_match = _on_match(matcher, arrived)
    if on_match is None:
        if not matcher.HasField("on_no_match"):
            return None
        on_match = matcher.on_no_match
    if on_match.HasField("matcher"):
        return _choose(on_match.matcher, arrived)
    name = wrappers_pb2.StringValue()
    assert on_match.action.typed_config.Unpack(name)
    return name.value


def _on_match(matcher: Any, arrived: Arrived) -> Any:
    if matcher.HasField("matcher_list"):
        for field in matcher.matcher_list.matchers:
            single = field.predicate.single_predicate
            value = arrived.input(single.input)
            if value and re.fullmatch(single.value_match.safe_regex.regex, value):
                return field.on_match
        return None
    if not matcher.HasField("matcher_tree"):
        return None
    tree = matcher.matcher_tree
    value = arrived.input(tree.input)
    if tree.HasField("exact_match_map"):
        return tree.exact_match_map.map.get(value)
    ranges = ip_pb2.IPMatcher()
    assert tree.custom_match.typed_config.Unpack(ranges)
    address = ip_address(value)
    found = [
        (network.prefix_len.value, each.on_match)
        for each in ranges.range_matchers
        for network in each.ranges
        if address in ip_network(f"{network.address_prefix}/{network.prefix_len.value}")
    ]
    return max(found, key=lambda match: match[0])[1] if found else None
