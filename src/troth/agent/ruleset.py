"""What nftables has in a network namespace: its rules read and compared, and every change noticed.

By nfnetlink (linux/netfilter/nf_tables.h), without starting nft. Elements of sets are not looked
at: they are changed all the time (`troth.agent.set_elements`), by packets, too.

Each transaction has a number, by which one can tell for next to nothing that there was none since.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from troth.agent.netlink import answer, attribute, attributes, dump, messages
from troth.agent.netns import call_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# linux/netlink.h, linux/netfilter/nfnetlink.h
_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_NFNLGRP_NFTABLES = 7
_NFTABLES = 10
_FAMILY = struct.Struct("!BBH")
_FAMILIES = {"inet": 1, "bridge": 7}

# linux/netfilter/nf_tables.h
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_GENERATION = (
    _NFTABLES << 8 | each for each in (1, 4, 7, 16)
)
_NEW_ELEMENT, _DELETE_ELEMENT, _NEW_GENERATION = (_NFTABLES << 8 | each for each in (12, 14, 15))
_NAME_OF_TABLE, _TABLE_FLAGS = 1, 2
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 3, 4, 5, 7
_RULE_CHAIN, _RULE_EXPRESSIONS = 2, 4
_GENERATION_ID, _GENERATION_PID, _GENERATION_PROGRAM = 1, 2, 3

_UNNAMED_SET = re.compile(rb"__(?:set|map)\d+\0")
"""How the kernel calls sets that stand in a rule: it counts them, and counts on."""

_MONITOR_BUFFER = 32 * 1024
"""Bytes of a namespace's changes that wait to be read; what doesn't fit is one more change."""

_LONGEST_NAME = 15
"""Of a program, as the kernel keeps it."""


class Chain(NamedTuple):
    """A chain as the kernel has it; opaque, to be compared.

    Attributes:
        hook: Where it begins, its type and policy; of a table, its flags.
        rules: Its rules.
    """

    hook: tuple[tuple[int, bytes], ...]
    rules: tuple[bytes, ...] = ()


Ruleset: TypeAlias = "Mapping[tuple[str, str], Chain]"
"""Chains by their tables (``inet NAME``) and names, and the tables themselves without one."""


def read_ruleset(names: Iterable[tuple[str, str]]) -> Ruleset:
    """Those of these chains and tables that are in the calling thread's network namespace.

    Raises:
        OSError: The kernel refuses to tell.
    """
    found: dict[tuple[str, str], Chain] = {}
    rules: dict[str, dict[str, list[bytes]]] = {}
    for table, chain in names:
        if table not in rules:
            rules[table] = _rules(table)
        with contextlib.suppress(FileNotFoundError):
            hook = _head(table, chain)
            found[table, chain] = Chain(hook, tuple(rules[table].get(chain, ())))
    return found


def chains_of(rules: str) -> frozenset[tuple[str, str]]:
    """The chains and tables that a transaction in nftables' language makes, one a line."""
    found, table = set(), ""
    for line in rules.splitlines():
        match line.split():
            case ["table", family, name, "{"]:
                table = f"{family} {name}"
                found.add((table, ""))
            case ["chain", name, "{"]:
                found.add((table, name))
            case ["add", "chain", family, name, chain, *_]:
                found |= {(f"{family} {name}", ""), (f"{family} {name}", chain)}
    return frozenset(found)


def difference_of(expected: Ruleset, found: Ruleset) -> str:
    """What is not as expected, in words; empty if all is."""
    lost = [name for name, chain in expected.items() if found.get(name) != chain]
    gone = sorted(table for table, chain in lost if not chain and (table, "") not in found)
    if gone:
        return f"removed: table {', table '.join(gone)}"
    named = sorted(
        f"chain {chain} of table {table}" if chain else f"table {table}" for table, chain in lost
    )
    more = f" and {len(named) - 1} more" if named[1:] else ""
    return f"changed: {named[0]}{more}" if named else ""


def generation() -> int:
    """The number of the last transaction in the calling thread's network namespace.

    Raises:
        OSError: The kernel refuses to tell.
    """
    told = dict(attributes(_ask(_GET_GENERATION, "inet", b"")))
    return int.from_bytes(told[_GENERATION_ID], "big")


def _rules(table: str) -> dict[str, list[bytes]]:
    """The rules of a table, by chain."""
    family, _, name = table.partition(" ")
    request = _FAMILY.pack(_FAMILIES[family], 0, 0) + _named(_NAME_OF_TABLE, name)
    found: dict[str, list[bytes]] = {}
    with contextlib.suppress(FileNotFoundError):
        for _, body in dump(_NETLINK_NETFILTER, _GET_RULE, request):
            told = dict(attributes(body[_FAMILY.size :]))
            if told[_NAME_OF_TABLE].rstrip(b"\0").decode() == name:
                expressions = _UNNAMED_SET.sub(b"", told.get(_RULE_EXPRESSIONS, b""))
                found.setdefault(_text(told[_RULE_CHAIN]), []).append(expressions)
    return found


def _head(table: str, chain: str) -> tuple[tuple[int, bytes], ...]:
    family, _, name = table.partition(" ")
    if not chain:
        told = attributes(_ask(_GET_TABLE, family, _named(_NAME_OF_TABLE, name)))
        return tuple(each for each in told if each[0] == _TABLE_FLAGS)
    request = _named(_NAME_OF_TABLE, name) + _named(_CHAIN_NAME, chain)
    told = attributes(_ask(_GET_CHAIN, family, request))
    return tuple(each for each in told if each[0] in {_CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE})


def _ask(kind: int, family: str, request: bytes) -> bytes:
    """The attributes of the answer."""
    body = answer(_NETLINK_NETFILTER, kind, _FAMILY.pack(_FAMILIES[family], 0, 0) + request)
    return body[_FAMILY.size :]


def _named(kind: int, name: str) -> bytes:
    return attribute(kind, name.encode() + b"\0")


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode(errors="replace")


class RulesetMonitor:
    """Notices transactions that change more than elements of sets, in one network namespace.

    It keeps the namespace alive until it is closed.

    Args:
        netns: The namespace.
        tables: What a change has to name to count: a part of the tables' names.

    Attributes:
        changed_by: Who made the last transaction, as in ``nft (PID 123)``; empty if not known.

    Raises:
        PeerError: There is no network namespace.
        EnvironmentLackError: It may not be entered.
        OSError: The kernel doesn't tell of changes.
    """

    def __init__(self, netns: Path, tables: bytes) -> None:
        self._tables = tables
        self._counts = False
        self.changed_by = ""
        self._socket = call_in(netns, _subscribed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to `look` at."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the namespace."""
        self._socket.close()

    def look(self) -> bool:
        """Whether there was such a transaction since the last look."""
        counts = False
        for data in self._arrived():
            if data is None:
                counts, self._counts, self.changed_by = True, False, ""
                continue
            for kind, body in messages(data):
                if kind == _NEW_GENERATION:
                    if self._counts:
                        counts, self._counts = True, False
                        self.changed_by = _program(body[_FAMILY.size :])
                elif kind not in {_NEW_ELEMENT, _DELETE_ELEMENT} and self._tables in body:
                    self._counts = True
        return counts

    def _arrived(self) -> Iterator[bytes | None]:
        """What has arrived; None where something was lost."""
        while True:
            try:
                yield self._socket.recv(_MONITOR_BUFFER)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS
                yield None


def _subscribed() -> socket.socket:
    monitor = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
    )
    try:
        monitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _MONITOR_BUFFER)
        monitor.bind((0, 0))
        monitor.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
    except OSError:
        monitor.close()
        raise
    return monitor


def _program(attributes_of_generation: bytes) -> str:
    told = dict(attributes(attributes_of_generation))
    name = _text(told.get(_GENERATION_PROGRAM, b""))[:_LONGEST_NAME]
    shown = "".join(each if each.isprintable() else "?" for each in name)
    pid = int.from_bytes(told.get(_GENERATION_PID, b""), "big")
    return f"{shown} (PID {pid})" if shown else ""
