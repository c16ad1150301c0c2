"""Where the processes of a pod listen, read from its network namespace."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from troth.agent import netns
from troth.mesh.model import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

# proc_net_tcp(5): 0A is TCP_LISTEN (net/tcp_states.h).
_LISTEN = "0A"
_TABLES = ("tcp", "tcp6")


def listening(path: Path) -> tuple[Endpoint, ...]:
    """The TCP sockets that listen in the network namespace at ``path``, by address and port.

    Raises:
        PeerError: There is no network namespace at ``path``.
        EnvironmentLackError: It may not be entered.
    """
    tables = netns.call_in(path, lambda: [_table(name) for name in _TABLES])
    return tuple(sorted({endpoint for table in tables for endpoint in parse_table(table)}))


def parse_table(text: str) -> Iterator[Endpoint]:
    """The listening sockets in a ``/proc/net/tcp`` or ``tcp6``."""
    for line in text.splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == _LISTEN:
            address, _, port = local.partition(":")
            yield Endpoint(_address(address), int(port, 16))


def _table(name: str) -> str:
    try:
        return Path("/proc/thread-self/net", name).read_text("ascii")
    except FileNotFoundError:  # a kernel without IPv6
        return ""


def _address(digits: str) -> str:
    """The kernel writes each 32 bits of an address as a number in its own byte order."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    packed = b"".join(struct.pack("=I", word) for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6  # noqa: PLR2004 - IPv4's
    address = ip_address(socket.inet_ntop(family, packed))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
