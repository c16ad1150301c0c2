"""Addresses, rules and routes of a network namespace, by netlink(7).

The routes let a pod's app see its clients' addresses. Envoy connects to the app from its client's
own address, although that address is another pod's, and sets `APP_MARK` on these sockets. The
answers would leave the pod by its default route, so marked packets are routed to loopback. By
sysctl (`troth.agent.sysctls`) an answer gets the mark of the packet that it answers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from troth.agent.netns import call_in
from troth.errors import PeerError
from troth.mesh.ports import APP_MARK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# linux/netlink.h
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLM_F_REQUEST_ACK = 0x1 | 0x4

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF

_BUFFER = 65_536
"""Twice the largest part of a dump that the kernel sends."""


# linux/rtnetlink.h, linux/if_addr.h
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_IFA_ADDRESS = 1
_IFA_LOCAL = 2

_ADDRESS = struct.Struct("=BBBBI")

TABLE = 15007
"""The table of the routes to the app. Others, such as CNIs' source routing, use low numbers."""

_PRIORITY = 1000
"""The priority of their rule: after the table of local addresses, before the main one."""

# linux/rtnetlink.h, linux/fib_rules.h
_RTM_NEWROUTE = 24
_RTM_NEWRULE = 32
_ROUTE = struct.Struct("=BBBBBBBBI")
_RULE = struct.Struct("=BBBBB2xBI")
_FR_ACT_TO_TBL = 1
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 6, 10, 15, 16
_RTA_OIF, _RTA_TABLE = 4, 15
_RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL = 4, 254, 2
_NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x100, 0x200, 0x400
_LOOPBACK = 1
"""Its index in every network namespace."""

_WITHOUT_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES})
"""The errors of a kernel or a namespace without IPv6; such a pod has no IPv6 address either."""


def dump(protocol: int, kind: int, request: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and bodies of all messages of one answer, in the thread's network namespace.

    Args:
        protocol: Of the netlink family, such as ``NETLINK_ROUTE``.
        kind: The request's type.
        request: Its body.

    Raises:
        OSError: The kernel refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        _ask(kernel, kind, _NLM_F_REQUEST_DUMP, request)
        while True:
            for answer, body in messages(kernel.recv(_BUFFER)):
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(body)[0]
                    raise OSError(number or errno.EPROTO, os.strerror(number or errno.EPROTO))
                yield answer, body


def answer(protocol: int, kind: int, request: bytes) -> bytes:
    """The body of the one message that answers, in the thread's network namespace.

    Args:
        protocol: As of `dump`.
        kind: The request's type.
        request: Its body.

    Raises:
        OSError: The kernel refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        _ask(kernel, kind, _NLM_F_REQUEST, request)
        ((told, body),) = messages(kernel.recv(_BUFFER))
        if told == _NLMSG_ERROR:
            number = -_ERROR.unpack_from(body)[0]
            raise OSError(number or errno.EPROTO, os.strerror(number or errno.EPROTO))
        return body


def change(protocol: int, kind: int, flags: int, request: bytes) -> None:
    """Make a change in the thread's network namespace, and wait until it is done.

    Args:
        protocol: As of `dump`.
        kind: The request's type.
        flags: Additional flags of the request.
        request: Its body.

    Raises:
        OSError: The kernel refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        _ask(kernel, kind, _NLM_F_REQUEST_ACK | flags, request)
        for answer, body in messages(kernel.recv(_BUFFER)):
            if answer == _NLMSG_ERROR and (number := -_ERROR.unpack_from(body)[0]):
                raise OSError(number, os.strerror(number))


def _ask(kernel: socket.socket, kind: int, flags: int, request: bytes) -> None:
    kernel.bind((0, 0))
    size = _HEADER.size + len(request)
    kernel.send(_HEADER.pack(size, kind, flags, 1, 0) + request)


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute of a request's body."""
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload.ljust(aligned(len(payload)), b"\0")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and payloads of the attributes in a message's body."""
    while data:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : size]
        data = data[aligned(size) :]


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and bodies of the messages that the kernel sent at once."""
    while data:
        size, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : size]
        data = data[aligned(size) :]


def aligned(size: int) -> int:
    """The size that something takes in a message (``NLMSG_ALIGN``)."""
    return (size + 3) & ~3


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
    """The local address of an ``ifaddrmsg``; a point-to-point link also has the peer's."""
    told = dict(attributes(body[_ADDRESS.size :]))
    return str(ip_address(told.get(_IFA_LOCAL) or told[_IFA_ADDRESS]))


def keep_inside() -> None:
    """Keep Envoy's connections to the app inside the calling thread's network namespace.

    Idempotent.

    Raises:
        PeerError: The kernel refused the routes.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            _put(family)
        except OSError as error:
            if family is socket.AF_INET6 and error.errno in _WITHOUT_IPV6:
                return
            raise PeerError("the pod's network namespace", f"takes no routes: {error}") from error


def _put(family: socket.AddressFamily) -> None:
    table = attribute(_RTA_TABLE, _number(TABLE))
    # The route first: with a rule but no route, packets would leave the pod.
    route = _ROUTE.pack(family, 0, 0, 0, 0, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
    route += table + attribute(_RTA_OIF, _number(_LOOPBACK))
    change(socket.NETLINK_ROUTE, _RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, route)
    rule = _RULE.pack(family, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0)
    rule += attribute(_FRA_TABLE, _number(TABLE))
    rule += attribute(_FRA_PRIORITY, _number(_PRIORITY))
    rule += attribute(_FRA_FWMARK, _number(APP_MARK))
    rule += attribute(_FRA_FWMASK, _number(0xFFFF_FFFF))
    with contextlib.suppress(FileExistsError):
        change(socket.NETLINK_ROUTE, _RTM_NEWRULE, _NLM_F_CREATE | _NLM_F_EXCL, rule)


def _number(value: int) -> bytes:
    return struct.pack("=I", value)
