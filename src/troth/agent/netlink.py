"""Asks the kernel for all there is of something, or to change it, by netlink(7)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netlink.h
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLM_F_REQUEST_ACK = 0x1 | 0x4

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF

_BUFFER = 65_536
"""Twice the largest part of a dump that the kernel sends."""


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
            for answer, body in _messages(kernel.recv(_BUFFER)):
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(body)[0]
                    raise OSError(number or errno.EPROTO, os.strerror(number or errno.EPROTO))
                yield answer, body


def change(protocol: int, kind: int, flags: int, request: bytes) -> None:
    """Have the kernel change something in the thread's network namespace, and wait until it has.

    Args:
        protocol: As of `dump`.
        kind: The request's type.
        flags: Of the request, beside those that make it one.
        request: Its body.

    Raises:
        OSError: The kernel refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        _ask(kernel, kind, _NLM_F_REQUEST_ACK | flags, request)
        for answer, body in _messages(kernel.recv(_BUFFER)):
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


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : size]
        data = data[aligned(size) :]


def aligned(size: int) -> int:
    """The size that something takes in a message (``NLMSG_ALIGN``)."""
    return (size + 3) & ~3
