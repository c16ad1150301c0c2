"""The TCP sockets in a pod's network namespace: which ports are in use, and where apps listen."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.agent.netlink import attributes, dump
from troth.agent.netns import call_in
from troth.errors import PeerError, TrothError
from troth.traffic.connection import Reason, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from troth.traffic.connection import ConnectionReport

# net/tcp_states.h
_TIME_WAIT, _CLOSE, _LISTEN = 0x06, 0x07, 0x0A
_UNCONNECTED = frozenset({_TIME_WAIT, _CLOSE, _LISTEN})

# linux/sock_diag.h, linux/inet_diag.h
_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBBI48x")
_PORT = struct.Struct("!4xH")
_MESSAGE = 72  # struct inet_diag_msg
_ADDRESS = slice(8, 24)
_INODE = struct.Struct("=68xI")
_INET_DIAG_SKV6ONLY = 11

_TABLES = ("tcp", "tcp6")


class ListeningSocket(NamedTuple):
    """A TCP socket that listens.

    Attributes:
        address: Where; ``0.0.0.0`` or ``::`` for every address.
        port: The port.
        dual_stack: Whether one on ``::`` takes IPv4, too.
    """

    address: str
    port: int
    dual_stack: bool = False

    def takes(self, address: str) -> bool:
        """Whether it takes a connection to an address of the pod."""
        if self.address == address:
            return True
        if not ip_address(self.address).is_unspecified:
            return False
        return self.dual_stack or (":" in self.address) == (":" in address)

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


def listening_sockets(netns: Path) -> frozenset[ListeningSocket]:
    """The TCP sockets that listen in the network namespace at ``netns``; by sock_diag(7).

    Raises:
        PeerError: There is no network namespace, or the kernel doesn't answer.
        EnvironmentLackError: It may not be entered.
    """
    try:
        return frozenset(call_in(netns, lambda: list(map(_socket, _diagnosed()))))
    except OSError as error:
        raise PeerError(f"network namespace {netns}", f"tells no sockets: {error}") from error


def listening_ports(netns: Path) -> frozenset[int]:
    """The ports that somebody listens on in the network namespace at ``netns``.

    By sock_diag(7), because ``/proc/net/tcp`` takes the kernel 10 ms: it looks through the
    connections of all namespaces.

    Raises:
        PeerError: There is no network namespace, or the kernel refused to answer.
        EnvironmentLackError: It may not be entered.
    """
    try:
        return call_in(netns, listening_ports_here)
    except OSError as error:
        raise PeerError(f"network namespace {netns}", f"tells no sockets: {error}") from error


def listening_ports_here() -> frozenset[int]:
    """The same of the calling thread's network namespace.

    Raises:
        OSError: The kernel refused to answer.
    """
    try:
        return frozenset(_PORT.unpack_from(each)[0] for each in _diagnosed())
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    # A kernel without inet_diag.
    return frozenset(port for port, state in _parsed() if state == _LISTEN)


def listening_inodes(netns: Path, port: int) -> frozenset[int]:
    """The inodes of the sockets that listen on a port in the network namespace at ``netns``.

    Raises:
        PeerError: There is no network namespace, or the kernel doesn't answer.
        EnvironmentLackError: It may not be entered.
    """

    def look() -> frozenset[int]:
        return frozenset(
            _INODE.unpack_from(each)[0]
            for each in _diagnosed()
            if _PORT.unpack_from(each)[0] == port
        )

    try:
        return call_in(netns, look)
    except OSError as error:
        raise PeerError(f"network namespace {netns}", f"tells no sockets: {error}") from error


def connected_ports(netns: Path) -> frozenset[int]:
    """The ports that have connections which aren't over yet; local ones.

    Raises:
        PeerError: There is no network namespace.
        EnvironmentLackError: It may not be entered.
    """
    return frozenset(port for port, state in _sockets(netns) if state not in _UNCONNECTED)


def _diagnosed() -> Iterator[bytes]:
    """``struct inet_diag_msg`` with its attributes, of each socket that listens."""
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN)
        for _, body in dump(_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, request):
            yield body


def _socket(message: bytes) -> ListeningSocket:
    family, (port,) = message[0], _PORT.unpack_from(message)
    if family == socket.AF_INET:
        return ListeningSocket(socket.inet_ntop(socket.AF_INET, message[_ADDRESS][:4]), port)
    address = ip_address(message[_ADDRESS])
    ipv6_only = dict(attributes(message[_MESSAGE:])).get(_INET_DIAG_SKV6ONLY)
    return ListeningSocket(str(address), port, dual_stack=ipv6_only != b"\1")


def _sockets(netns: Path) -> list[tuple[int, int]]:
    return call_in(netns, lambda: list(_parsed()))


def _parsed() -> Iterator[tuple[int, int]]:
    for table in _read():
        yield from parse_table(table)


def _read() -> Iterator[str]:
    for table in _TABLES:
        path = Path("/proc/thread-self/net") / table
        if path.exists():  # there is no tcp6 without IPv6
            yield path.read_text()


def parse_table(table: str) -> Iterator[tuple[int, int]]:
    """Local port and state of each socket in ``/proc/net/tcp`` or ``tcp6`` (proc(5))."""
    for line in table.splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        yield int(local.rpartition(":")[2], 16), int(state, 16)


_FRESH_SECONDS = 1.0
"""How long a look at a pod's sockets counts, so that a scan of its ports costs few of them."""


class _Look(NamedTuple):
    at: float
    sockets: frozenset[ListeningSocket]


class Listeners:
    """Looks at the listening sockets of a node's pods when a report asks for it.

    Args:
        netns: The network namespaces of the pods, by UID, as they are now.
    """

    def __init__(self, netns: Callable[[], Mapping[str, Path]]) -> None:
        self._netns = netns
        self._looks: dict[str, _Look] = {}

    async def complete(self, report: ConnectionReport) -> ConnectionReport:
        """The report; of a connection that no app took, with what the app listens on as detail.

        Envoy's own word for it is always the same, and is left out.
        """
        connection = report.connection
        if (connection.side, connection.reason) != (Side.SERVER, Reason.APP_UNREACHABLE):
            return report
        address, port = connection.destination.address, connection.destination.port
        sockets = await self._look(report.pod)
        detail = listening_instead(address, port, sockets) if sockets is not None else ""
        completed = msgspec.structs.replace(connection, detail=detail)
        return msgspec.structs.replace(report, connection=completed)

    async def _look(self, uid: str) -> frozenset[ListeningSocket] | None:
        now = asyncio.get_running_loop().time()
        self._looks = {
            each: look for each, look in self._looks.items() if now < look.at + _FRESH_SECONDS
        }
        netns = self._netns().get(uid)
        if netns is None:
            return None
        if uid not in self._looks:
            try:
                sockets = await asyncio.to_thread(listening_sockets, netns)
            except TrothError:  # the pod has ended
                return None
            self._looks[uid] = _Look(now, sockets)
        return self._looks[uid].sockets


def listening_instead(address: str, port: int, sockets: Collection[ListeningSocket]) -> str:
    """What listens on ``port``, where a connection to ``address`` found nobody.

    Returns:
        Such as ``it listens on 0.0.0.0:7000 alone, so not on IPv6``; empty if somebody would take
        the connection now.
    """
    there = sorted({each for each in sockets if each.port == port})
    if not there:
        return f"nothing listens on port {port}"
    if any(each.takes(address) for each in there):
        return ""
    places = " and ".join(str(each) for each in there)
    wanted = "IPv6" if ":" in address else "IPv4"
    loopback = all(ip_address(each.address).is_loopback for each in there)
    missing = "the pod's address" if loopback else wanted
    return f"it listens on {places} alone, so not on {missing}"
