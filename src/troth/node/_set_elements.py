"""Elements of nftables sets in a pod's network namespace, read and changed without starting nft.

By nfnetlink (linux/netfilter/nf_tables.h). The kernel answers before ``send`` returns, so nothing
here waits for anybody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Collection
from typing import TYPE_CHECKING, Self

import msgspec

from troth.node._netlink import aligned, attribute, attributes
from troth.node._netns import call_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# linux/netlink.h, linux/netfilter/nfnetlink.h
_NETLINK_NETFILTER = 12
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_CREATE = 0x1, 0x4, 0x300, 0x400
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFPROTO_UNSPEC, _NFPROTO_INET = 0, 1
_NFTABLES = 10

# linux/netfilter/nf_tables.h
_NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT = (_NFTABLES << 8 | each for each in (12, 13, 14))
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEMENT = 1, 2, 3, 1
_ELEMENT_KEY, _ELEMENT_EXPRESSION = 1, 7
_DATA_VALUE, _EXPRESSION_DATA, _COUNTER_PACKETS = 1, 2, 2

_NESTED = 0x8000

_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("!BBH")
_ERROR = struct.Struct("=i")
_COUNT = struct.Struct("!Q")

_BUFFER = 65_536
"""Twice the largest part of an answer that the kernel sends."""

_MOST_IN_A_MESSAGE = 1000
"""An attribute's length is 16 bits."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Elements that come to a set and leave it.

    Attributes:
        name: The set's.
        added: Keys; elements that are in it stay as they are.
        removed: Keys of elements that are in it.
    """

    name: str
    added: Collection[bytes] = ()
    removed: Collection[bytes] = ()


class SetElements:
    """The sets of one table of family ``inet`` in the network namespace at ``netns``.

    It keeps the namespace alive until it is closed.

    Raises:
        PeerError: There is no network namespace.
        EnvironmentLackError: It may not be entered.
    """

    def __init__(self, netns: Path, table: str) -> None:
        self._table = table
        self._socket = call_in(
            netns,
            lambda: socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the namespace."""
        self._socket.close()

    def add(self, name: str, keys: Iterable[bytes]) -> None:
        """Add elements to a set, in one transaction; those that are in it stay as they are.

        Raises:
            OSError: The kernel refuses: there is no such set (ENOENT), or it is full (ENFILE).
        """
        self.change([Change(name=name, added=tuple(keys))])

    def remove(self, name: str, key: bytes) -> None:
        """Remove an element; no-op if it isn't there.

        Raises:
            OSError: The kernel refuses.
        """
        try:
            self.change([Change(name=name, removed=[key])])
        except FileNotFoundError:
            return

    def change(self, changes: Iterable[Change]) -> None:
        """Change several sets in one transaction: all of it comes into force at once, or nothing.

        Raises:
            OSError: The kernel refuses: there is no such set, or no such element to remove
                (ENOENT); it is full (ENFILE); there is more than fits in one message (EMSGSIZE).
        """
        messages = [message for change in changes for message in self._messages(change)]
        if not messages:
            return
        # Of all but the last only errors are told.
        flags = [_NLM_F_REQUEST] * (len(messages) - 1) + [_NLM_F_REQUEST | _NLM_F_ACK]
        self._transact(
            _message(kind, flag | own, body)
            for flag, (kind, own, body) in zip(flags, messages, strict=True)
        )

    def clear(self, name: str) -> None:
        """Remove all elements of a set.

        Raises:
            OSError: The kernel refuses: there is no such set (ENOENT).
        """
        body = _family(_NFPROTO_INET) + self._list(name)
        self._transact([_message(_DELETE_ELEMENT, _NLM_F_REQUEST | _NLM_F_ACK, body)])

    def keys(self, name: str) -> frozenset[bytes]:
        """The keys of a set's elements.

        Raises:
            OSError: The kernel refuses: there is no such set (ENOENT).
        """
        return frozenset(key for key, _ in self._elements(name))

    def counts(self, name: str) -> Mapping[bytes, int]:
        """The packets that a set's elements have counted, by key.

        Raises:
            OSError: The kernel refuses: there is no such set (ENOENT).
        """
        found: dict[bytes, int] = {}
        for key, parts in self._elements(name):
            expression = _by_type(parts.get(_ELEMENT_EXPRESSION, b""))
            counter = _by_type(expression.get(_EXPRESSION_DATA, b""))
            if _COUNTER_PACKETS in counter:
                found[key] = _COUNT.unpack(counter[_COUNTER_PACKETS])[0]
        return found

    def _elements(self, name: str) -> Iterator[tuple[bytes, Mapping[int, bytes]]]:
        """A set's elements: their keys and attributes."""
        body = self._list(name)
        self._ask(
            _message(_GET_ELEMENT, _NLM_F_REQUEST | _NLM_F_DUMP, _family(_NFPROTO_INET) + body)
        )
        for answer in self._answers():
            elements = _by_type(answer[_FAMILY.size :]).get(_LIST_ELEMENTS, b"")
            for _, element in attributes(elements):
                parts = _by_type(element)
                yield _by_type(parts[_ELEMENT_KEY])[_DATA_VALUE], parts

    def _messages(self, change: Change) -> Iterator[tuple[int, int, bytes]]:
        """The kind, flags and body of each message that is needed."""
        for kind, flags, keys in (
            (_NEW_ELEMENT, _NLM_F_CREATE, change.added),
            (_DELETE_ELEMENT, 0, change.removed),
        ):
            elements = [
                attribute(
                    _LIST_ELEMENT | _NESTED,
                    attribute(_ELEMENT_KEY | _NESTED, attribute(_DATA_VALUE, key)),
                )
                for key in keys
            ]
            for start in range(0, len(elements), _MOST_IN_A_MESSAGE):
                some = b"".join(elements[start : start + _MOST_IN_A_MESSAGE])
                body = self._list(change.name) + attribute(_LIST_ELEMENTS | _NESTED, some)
                yield kind, flags, _family(_NFPROTO_INET) + body

    def _transact(self, messages: Iterable[bytes]) -> None:
        batch = _family(_NFPROTO_UNSPEC, _NFTABLES)
        self._ask(
            _message(_BATCH_BEGIN, _NLM_F_REQUEST, batch)
            + b"".join(messages)
            + _message(_BATCH_END, _NLM_F_REQUEST, batch)
        )
        for _ in self._answers():
            pass

    def _list(self, name: str) -> bytes:
        return attribute(_LIST_TABLE, self._table.encode() + b"\0") + attribute(
            _LIST_SET, name.encode() + b"\0"
        )

    def _ask(self, message: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:  # what is left of an answer that ended in an error
                self._socket.recv(_BUFFER)
        self._socket.send(message)

    def _answers(self) -> Iterator[bytes]:
        """The bodies of an answer's messages, up to its end."""
        while True:
            data = self._socket.recv(_BUFFER)
            while data:
                size, kind, *_ = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : size], data[aligned(size) :]
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(body)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                if kind != _NEW_ELEMENT:
                    raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
                yield body


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _family(family: int, resource: int = 0) -> bytes:
    return _FAMILY.pack(family, 0, resource)


def _by_type(data: bytes) -> dict[int, bytes]:
    return dict(attributes(data))
