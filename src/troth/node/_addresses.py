"""The addresses of a network namespace, as the kernel tells them by rtnetlink(7)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from troth.errors import PeerError
from troth.node._netns import call_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_IFA_ADDRESS = 1
_IFA_LOCAL = 2

_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

_BUFFER = 65_536
"""Twice the largest part of a dump that the kernel sends."""


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
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.bind((0, 0))
        size = _HEADER.size + _ADDRESS.size
        request = _HEADER.pack(size, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0)
        kernel.send(request + _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        while True:
            for kind, body in _messages(kernel.recv(_BUFFER)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(body)[0]
                    raise OSError(number or errno.EPROTO, os.strerror(number or errno.EPROTO))
                if kind == _RTM_NEWADDR:
                    yield _local_address(body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : size]
        data = data[_aligned(size) :]


def _local_address(body: bytes) -> str:
    """The own address of an ``ifaddrmsg``; of a point-to-point link the other one is the peer's."""
    attributes: dict[int, bytes] = {}
    rest = body[_ADDRESS.size :]
    while rest:
        size, kind = _ATTRIBUTE.unpack_from(rest)
        attributes[kind] = rest[_ATTRIBUTE.size : size]
        rest = rest[_aligned(size) :]
    return str(ip_address(attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]))


def _aligned(size: int) -> int:
    return (size + 3) & ~3
