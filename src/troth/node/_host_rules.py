"""Lets the node's own processes, the kubelet's probes above all, reach captured pods as they are.

A probe must reach the app itself, also under STRICT, and must fail when the app does; a proxy that
accepts for the app would answer every TCP probe. So the pod's rules pass by what comes from one
address that nobody has, and rules in the node's own namespace see to it that only the node's own
processes are seen under it:

* What a socket of the node's namespace sends to a captured pod of this node gets that address as
  its source. Forwarded packets have no such socket, so pods, other machines and NodePort clients,
  masqueraded or not, keep theirs.
* What arrives at the node under that address is forged, and dropped. So is what enters a bridge of
  the node under it by one of the ports, as between two pods; the node's own packets don't.

(Istio's ambient mode does the same, with an address of its own.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from troth.errors import TrothError
from troth.node._capture import PROBE_SOURCE_V4, PROBE_SOURCE_V6, apply_ruleset

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

TABLE = "troth-node"

_log = structlog.get_logger(__name__)

# Just before kube-proxy and CNIs choose a source, as whoever chooses first does so for good.
_PRIORITY = 90

# A packet of a socket in this very namespace has its owner; a forwarded one has none, whatever it
# says.
_OWN = "meta skuid != 4294967295"


def host_rules(addresses: Iterable[str]) -> str:
    """The whole table as one nftables transaction.

    Args:
        addresses: Of the node's captured pods.
    """
    known = sorted(set(addresses))
    v4 = _elements(address for address in known if ":" not in address)
    v6 = _elements(address for address in known if ":" in address)
    return f"""\
add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  set pods {{
    type ipv4_addr; {v4}
  }}
  set pods6 {{
    type ipv6_addr; {v6}
  }}
  chain forged {{
    type filter hook prerouting priority -300; policy accept;
    ip saddr {PROBE_SOURCE_V4} drop
    ip6 saddr {PROBE_SOURCE_V6} drop
  }}
  chain own {{
    type nat hook postrouting priority {_PRIORITY}; policy accept;
    {_OWN} ip daddr @pods tcp flags syn / fin,syn,rst,ack snat ip to {PROBE_SOURCE_V4}
    {_OWN} ip6 daddr @pods6 tcp flags syn / fin,syn,rst,ack snat ip6 to {PROBE_SOURCE_V6}
  }}
}}
"""


def bridge_rules() -> str:
    """Guards pods that share a bridge, since frames between them don't pass the other table.

    VLAN 0 stands for no VLAN: the kernel takes such a tag off, as often as it is there, but shows
    rules what is behind the first one only. So nobody may nest them.
    """
    vlan = "{ 0x8100, 0x88a8 }"  # IEEE 802.1Q, 802.1ad
    return f"""\
add table bridge {TABLE}
delete table bridge {TABLE}
table bridge {TABLE} {{
  chain forged {{
    type filter hook prerouting priority -300; policy accept;
    meta protocol ip ip saddr {PROBE_SOURCE_V4} drop
    meta protocol ip6 ip6 saddr {PROBE_SOURCE_V6} drop
    @ll,96,16 {vlan} @ll,116,12 0 @ll,128,16 {vlan} drop comment "a tag in VLAN 0"
  }}
}}
"""


def _elements(addresses: Iterable[str]) -> str:
    text = ", ".join(addresses)
    return f"elements = {{ {text} }}" if text else ""


class HostRules:
    """Keeps the rules in the node's namespace as its captured pods want them.

    Args:
        netns: The node's own network namespace.
    """

    def __init__(self, netns: Path) -> None:
        self._netns = netns
        self._applied: frozenset[str] | None = None

    def forget(self) -> None:
        """Take note that somebody else may have changed the rules."""
        self._applied = None

    async def let_in(self, addresses: Collection[str]) -> None:
        """Let the node's processes reach the captured pods with these addresses, and no others."""
        wanted = frozenset(addresses)
        if wanted == self._applied:
            return
        if self._applied is None:
            await self._guard_bridges()
        try:
            await apply_ruleset(self._netns, host_rules(wanted))
        except TrothError as error:
            _log.error("probes of STRICT pods fail", reason=str(error))
        else:
            self._applied = wanted

    async def _guard_bridges(self) -> None:
        try:
            await apply_ruleset(self._netns, bridge_rules())
        except TrothError as error:
            _log.warning("pods on one bridge can pass for the node", reason=str(error))
