"""The addresses of a network namespace, as the kernel tells them by rtnetlink(7)."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from troth.agent.netlink import attributes, dump
from troth.agent.netns import call_in
from troth.errors import PeerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# linux/rtnetlink.h, linux/if_addr.h
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_IFA_ADDRESS = 1
_IFA_LOCAL = 2

_ADDRESS = struct.Struct("=BBBBI")


def addresses(netns: Path) -> frozenset[str]:
    """All addresses that are local in the network namespace at ``netns``, in canonical form.

    Raises:
        PeerError: There is no network namespace there, or the kernel refused to answer.
        EnvironmentLackError: It may not be entered.
    """
    try:
        return frozenset(call_in(netns, lambda: list(_dump())))
    except OSError as error:
        raise PeerError(f"network namespace {netns}", f"tells no addresses: {error}") from error


def _dump() -> Iterator[str]:
    request = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    for kind, body in dump(socket.NETLINK_ROUTE, _RTM_GETADDR, request):
        if kind == _RTM_NEWADDR:
            yield _local_address(body)


def _local_address(body: bytes) -> str:
    """The own address of an ``ifaddrmsg``; of a point-to-point link the other one is the peer's."""
    told = dict(attributes(body[_ADDRESS.size :]))
    return str(ip_address(told.get(_IFA_LOCAL) or told[_IFA_ADDRESS]))
