"""Elements of nftables sets in a pod's network namespace, read and changed without starting nft.

By nfnetlink (linux/netfilter/nf_tables.h). The kernel answers before ``send`` returns, so nothing
here blocks. But sets may be large: read them in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Collection
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import msgspec

from troth.agent.netlink import aligned, attribute, attributes
from troth.agent.netns import call_in
from troth.errors import TrothError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")

FIRST_PACKET = "tcp flags syn / fin,syn,rst,ack"
"""The nftables expression for the first segment of a connection."""

IP_VERSIONS = (("ip", "ipv4_addr"), ("ip6", "ipv6_addr"))
"""nftables' names of the two versions of IP, and of their addresses' types."""

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


class SetChange(msgspec.Struct, frozen=True, kw_only=True):
    """Elements to add to a set and to remove from it.

    Attributes:
        name: The set's.
        added: Keys; elements that are in it stay as they are.
        removed: Keys of elements that are in it.
    """

    name: str
    added: Collection[bytes] = ()
    removed: Collection[bytes] = ()


class Counted(NamedTuple):
    """An element that counts packets: its set's name, and its key."""

    name: str
    key: bytes


def increases(counts: Mapping[T, int], before: Mapping[T, int]) -> dict[T, int]:
    """By how much counters have grown; one that had disappeared has restarted at zero."""
    grown = {key: count - before.get(key, 0) for key, count in counts.items()}
    return {key: each if each > 0 else counts[key] for key, each in grown.items() if each}


class SetElements:
    """The sets of family ``inet`` in the network namespace at ``netns``, for any thread.

    It keeps the namespace alive until it is closed.

    Raises:
        PeerError: There is no network namespace.
        EnvironmentLackError: It may not be entered.
    """

    def __init__(self, netns: Path) -> None:
        self._lock = threading.Lock()
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
        """Release the namespace; later calls raise OSError."""
        with self._lock:
            self._socket.close()

    def add(self, table: str, name: str, keys: Iterable[bytes]) -> None:
        """Add elements to a set, in one transaction; those that are in it stay as they are.

        Raises:
            OSError: The kernel refuses: there is no such set (ENOENT), or it is full (ENFILE).
        """
        self.commit(transaction(table, [SetChange(name=name, added=tuple(keys))]))

    def remove(self, table: str, name: str, key: bytes) -> None:
        """Remove an element; no-op if it isn't there.

        Raises:
            OSError: The kernel refuses.
        """
        try:
            self.commit(transaction(table, [SetChange(name=name, removed=[key])]))
        except FileNotFoundError:
            return

    def clear(self, table: str, name: str) -> None:
        """Remove all elements of a set.

        Raises:
            OSError: The kernel refuses: there is no such set (ENOENT).
        """
        body = _family(_NFPROTO_INET) + _list(table, name)
        self.commit(_batch([_message(_DELETE_ELEMENT, _NLM_F_REQUEST | _NLM_F_ACK, body)]))

    def commit(self, changes: bytes) -> None:
        """Apply the changes of a `transaction` atomically.

        Raises:
            OSError: The kernel refuses: there is no such set, or no such element to remove
                (ENOENT), or a set is full (ENFILE).
        """
        if changes:
            self._answers(changes)

    def keys(self, table: str, name: str) -> frozenset[bytes]:
        """The keys of a set's elements.

        Raises:
            OSError: The kernel refuses: there is no such set (ENOENT).
        """
        return frozenset(key for key, _ in self._elements(table, name))

    def counts(self, table: str, names: Iterable[str]) -> dict[Counted, int]:
        """The packets that the elements of some sets have counted.

        Raises:
            OSError: The kernel refuses: there is no such set (ENOENT).
        """
        found: dict[Counted, int] = {}
        for name in names:
            for key, parts in self._elements(table, name):
                expression = _by_type(parts.get(_ELEMENT_EXPRESSION, b""))
                counter = _by_type(expression.get(_EXPRESSION_DATA, b""))
                if _COUNTER_PACKETS in counter:
                    found[Counted(name, key)] = _COUNT.unpack(counter[_COUNTER_PACKETS])[0]
        return found

    def _elements(self, table: str, name: str) -> Iterator[tuple[bytes, Mapping[int, bytes]]]:
        """A set's elements: their keys and attributes."""
        body = _family(_NFPROTO_INET) + _list(table, name)
        for answer in self._answers(_message(_GET_ELEMENT, _NLM_F_REQUEST | _NLM_F_DUMP, body)):
            elements = _by_type(answer[_FAMILY.size :]).get(_LIST_ELEMENTS, b"")
            for _, element in attributes(elements):
                parts = _by_type(element)
                yield _by_type(parts[_ELEMENT_KEY])[_DATA_VALUE], parts

    def _answers(self, request: bytes) -> list[bytes]:
        """The bodies of an answer's messages, up to its end."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                while True:  # the rest of an answer that ended with an error
                    self._socket.recv(_BUFFER)
            self._socket.send(request)
            return list(self._received())

    def _received(self) -> Iterator[bytes]:
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


class PodSets:
    """A cache of the sets of a node's captured pods."""

    def __init__(self) -> None:
        self._pods: dict[str, SetElements] = {}
        self._netns: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.asynccontextmanager
    async def of(self, pods: Mapping[str, Path]) -> AsyncIterator[Mapping[str, SetElements]]:
        """The sets of these pods, by UID; those of others are closed when the block ends.

        A pod that has ended is left out. One that is in another namespace than before has others.

        Args:
            pods: Network namespaces by UID.
        """
        gone = {uid for uid in self._pods if self._netns.get(uid) != pods.get(uid)}
        left = [self._pods.pop(uid) for uid in gone]
        try:
            for uid in pods.keys() - self._pods.keys():
                with contextlib.suppress(TrothError):
                    self._pods[uid] = await asyncio.to_thread(SetElements, pods[uid])
                    self._netns[uid] = pods[uid]
            yield self._pods
        finally:
            for each in left:
                each.close()

    def renew(self, uid: str) -> None:
        """Reopen a pod's sets the next time: their content is lost."""
        self._netns.pop(uid, None)

    def close(self) -> None:
        """Release all pods."""
        for each in self._pods.values():
            each.close()
        self._pods.clear()


async def read_counts(
    pods: Mapping[str, SetElements], table: str, names: Collection[str]
) -> Mapping[str, Mapping[Counted, int]]:
    """The counts in some sets of many pods, by UID, read in a thread.

    Pods whose sets can't be read, because they are being released, are left out.
    """

    def read() -> Mapping[str, Mapping[Counted, int]]:
        found = {}
        for uid, sets in pods.items():
            with contextlib.suppress(OSError):
                found[uid] = sets.counts(table, names)
        return found

    return await asyncio.to_thread(read) if pods else {}


def packed(address: str) -> tuple[str, bytes]:
    """An address's family in rules (``ip``, ``ip6``), and the address as a key."""
    parsed = ip_address(address)
    return ("ip" if parsed.version == 4 else "ip6"), parsed.packed  # noqa: PLR2004 - IPv4


def transaction(table: str, changes: Iterable[SetChange]) -> bytes:
    """Changes of several sets of one table, for `SetElements.commit`; empty if there are none."""
    messages = [message for change in changes for message in _bodies(table, change)]
    # Only the last one is acknowledged; the others only report errors.
    flags = [_NLM_F_REQUEST] * (len(messages) - 1) + [_NLM_F_REQUEST | _NLM_F_ACK]
    return _batch(
        [
            _message(kind, flag | own, body)
            for flag, (kind, own, body) in zip(flags, messages, strict=False)
        ]
    )


def _batch(messages: Collection[bytes]) -> bytes:
    if not messages:
        return b""
    batch = _family(_NFPROTO_UNSPEC, _NFTABLES)
    begin = _message(_BATCH_BEGIN, _NLM_F_REQUEST, batch)
    return begin + b"".join(messages) + _message(_BATCH_END, _NLM_F_REQUEST, batch)


def _bodies(table: str, change: SetChange) -> Iterator[tuple[int, int, bytes]]:
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
            body = _list(table, change.name) + attribute(_LIST_ELEMENTS | _NESTED, some)
            yield kind, flags, _family(_NFPROTO_INET) + body


def _list(table: str, name: str) -> bytes:
    return attribute(_LIST_TABLE, table.encode() + b"\0") + attribute(
        _LIST_SET, name.encode() + b"\0"
    )


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _family(family: int, resource: int = 0) -> bytes:
    return _FAMILY.pack(family, 0, resource)


def _by_type(data: bytes) -> dict[int, bytes]:
    return dict(attributes(data))
