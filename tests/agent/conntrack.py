"""What the kernel tracks in a network namespace (nf_conntrack, by netlink)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from troth.agent.netns import call_in

if TYPE_CHECKING:
    from pathlib import Path

# linux/netfilter/nf_conntrack_tcp.h
STATES = {
    1: "SYN_SENT",
    2: "SYN_RECV",
    3: "ESTABLISHED",
    4: "FIN_WAIT",
    5: "CLOSE_WAIT",
    6: "LAST_ACK",
    7: "TIME_WAIT",
    8: "CLOSE",
}


class Entry(NamedTuple):
    """One TCP connection: the port it was made to, its state, and how long it is remembered."""

    port: int
    state: str
    seconds: int


def tracked(netns: Path) -> list[Entry]:
    """All TCP connections that are tracked in a namespace."""
    return call_in(netns, _dump)


def _dump() -> list[Entry]:
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        with NFCTSocket(nfgen_family=family) as kernel:
            found += [_entry(message) for message in kernel.dump() if _is_tcp(message)]
    return found


def _is_tcp(message: Any) -> bool:
    return message.get_attr("CTA_PROTOINFO") is not None


def _entry(message: Any) -> Entry:
    tcp = message.get_attr("CTA_PROTOINFO").get_attr("CTA_PROTOINFO_TCP")
    proto = message.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_PROTO")
    return Entry(
        proto.get_attr("CTA_PROTO_DST_PORT"),
        STATES[tcp.get_attr("CTA_PROTOINFO_TCP_STATE")],
        message.get_attr("CTA_TIMEOUT") or 0,
    )
