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

import asyncio
from typing import TYPE_CHECKING

import structlog

from troth.agent.capture import PROBE_SOURCE_V4, PROBE_SOURCE_V6, apply_ruleset
from troth.errors import TrothError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

_NAME = "troth-node"
TABLE, BRIDGE_TABLE = f"inet {_NAME}", f"bridge {_NAME}"

_log = structlog.get_logger(__name__)

_REVIEW_SECONDS = 30.0
_RETRY_SECONDS = 2.0

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
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
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
add table {BRIDGE_TABLE}
delete table {BRIDGE_TABLE}
table {BRIDGE_TABLE} {{
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

    Others on a node can remove them (a firewall's reload flushes all tables), so they are put there
    again from time to time.

    Args:
        netns: The node's own network namespace.
        on_change: Called when `in_place` or `trouble` has changed by itself.
        review_seconds: How often they are put there again.
    """

    def __init__(
        self,
        netns: Path,
        *,
        on_change: Callable[[], None] = lambda: None,
        review_seconds: float = _REVIEW_SECONDS,
    ) -> None:
        self._netns = netns
        self._on_change = on_change
        self._review_seconds = review_seconds
        self._wanted: frozenset[str] | None = None
        self._applied: frozenset[str] | None = None
        self._troubles = {TABLE: "", BRIDGE_TABLE: ""}
        self._failed = asyncio.Event()
        self._applying = asyncio.Lock()

    @property
    def in_place(self) -> bool:
        """Whether nobody but the node's own processes has the probes' source, as far as is known.

        Pods on one bridge are not meant: not every kernel can keep them from it.
        """
        return self._applied is not None and self._applied == self._wanted

    @property
    def trouble(self) -> str:
        """What is not as it should be, and what follows from it; empty if nothing is."""
        return "; ".join(filter(None, self._troubles.values()))

    async def let_in(self, addresses: Collection[str]) -> None:
        """Let the node's processes reach the captured pods with these addresses, and no others."""
        async with self._applying:
            self._wanted = frozenset(addresses)
            if not self.in_place:
                await self._apply(self._wanted, bridges=self._applied is None)

    async def let_go(self) -> None:
        """Leave the rules to somebody else, until the next `let_in`."""
        async with self._applying:
            self._wanted = self._applied = None
            self._troubles = dict.fromkeys(self._troubles, "")

    async def run(self) -> None:
        """Put the rules there again, until cancelled: from time to time, and soon what failed."""
        while True:
            try:
                async with asyncio.timeout(self._review_seconds):
                    await self._failed.wait()
                await asyncio.sleep(min(_RETRY_SECONDS, self._review_seconds))
            except TimeoutError:
                pass  # nothing has failed
            async with self._applying:
                if self._wanted is None:
                    self._failed.clear()
                    continue
                before = self.in_place, self.trouble
                await self._apply(self._wanted, bridges=True)
                changed = before != (self.in_place, self.trouble)
            if changed:
                self._on_change()

    async def _apply(self, wanted: frozenset[str], *, bridges: bool) -> None:
        if bridges:
            trouble = "pods on one bridge can pass for the node"
            await self._put(BRIDGE_TABLE, bridge_rules(), trouble)
        is_there = await self._put(TABLE, host_rules(wanted), "probes of STRICT pods fail")
        self._applied = wanted if is_there else None
        if self.in_place:
            self._failed.clear()
        else:
            self._failed.set()

    async def _put(self, table: str, rules: str, consequence: str) -> bool:
        trouble = ""
        try:
            await apply_ruleset(self._netns, rules)
        except TrothError as error:
            first, _, _ = str(error).partition("\n")  # the others are about the same table
            trouble = f"{consequence}: {first}"
        if trouble != self._troubles[table]:
            self._troubles[table] = trouble
            if trouble:
                _log.error("the node's rules are not in place", table=table, reason=trouble)
            else:
                _log.info("the node's rules are in place again", table=table)
        return not trouble
