"""Connections and listening sockets in a pod's network namespace, as its processes have them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from troth.agent import netns
from troth.connect.findings import Attempt, Reached, belongs, is_echo
from troth.mesh.model import Endpoint
from troth.mesh.ports import ENVOY_MARK
from troth.mesh.target import pod_at
from troth.traffic.connection import Side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from troth.mesh.model import Pod
    from troth.mesh.target import Target
    from troth.mesh.world import World
    from troth.traffic.connection import Connection
    from troth.traffic.ledger import Connections

_MOST_BYTES = 4096
# An answer ends at this size, or when nothing has come for this many seconds.
_QUIET_SECONDS = 0.2
# The proxy's report: Envoy flushes its log every 50 ms, and logs a refused connection at its end.
REPORT_SECONDS = 2.0
# proc_net_tcp(5): 0A is TCP_LISTEN (net/tcp_states.h).
_LISTEN = "0A"
_TABLES = ("tcp", "tcp6")


class ClientPod(NamedTuple):
    """A pod to connect from."""

    pod: Pod
    netns: Path


def http_get(name: str) -> bytes:
    """A request for ``NAMESPACE/NAME`` that every HTTP server answers before it closes."""
    host = ".".join(reversed(name.split("/")))
    return f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def open_socket(place: ClientPod, address: str, *, mark: int = 0) -> socket.socket:
    """A bound non-blocking TCP socket in the pod's network namespace.

    Args:
        place: The pod.
        address: The IP to connect to.
        mark: Its SO_MARK; with Envoy's it isn't captured.

    Raises:
        TrothError: The pod has ended.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = netns.socket_in(place.netns, family)
    sock.setblocking(False)
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    sock.bind(("", 0))
    return sock


async def connect(
    world: World,
    place: ClientPod,
    target: Target,
    *,
    connections: Connections,
    payload: bytes,
    timeout: float,  # noqa: ASYNC109 - running out of time is a result here, not an exception
    captured: bool = True,
    node: str = "",
) -> Attempt:
    """Connect from a pod to ``target``, send ``payload`` and wait for an answer.

    Args:
        world: Names the ends of the connection.
        place: The pod that connects.
        target: The destination.
        connections: The reports of the node's proxy.
        payload: The data to send.
        timeout: Seconds for everything but the proxy's report.
        captured: Whether the pod's own proxy, if any, handles it; False bypasses that.
        node: The node of the proxy; empty if all pods are on one node.

    Raises:
        TrothError: The pod has ended.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    mark = ENVOY_MARK if place.pod.captured and not captured else 0
    captured = captured and place.pod.captured
    with (
        contextlib.closing(open_socket(place, target.address, mark=mark)) as sock,
        connections.following() as new,
    ):
        source_port = sock.getsockname()[1]
        connections.expect(
            place.pod,
            target,
            own_port=None if captured else source_port,
            seconds=timeout + REPORT_SECONDS,
        )
        began = datetime.now(UTC)
        reply = bytearray()
        reached, detail = Reached.UNREACHABLE, ""
        ended = 0.0
        try:
            async with asyncio.timeout(timeout):
                await loop.sock_connect(sock, (target.address, target.port))
                reached = Reached.SILENT
                await loop.sock_sendall(sock, payload)
                reached = await _hear(sock, reply)
                ended = loop.time()
                await _hear_on(sock, reply)
        except TimeoutError:
            detail = f"nothing came for {timeout:g} s"
        except OSError as error:
            detail = os.strerror(error.errno) if error.errno else str(error)
            if reached is not Reached.UNREACHABLE or error.errno == errno.ECONNRESET:
                reached = Reached.RESET
        elapsed_ms = ((ended or loop.time()) - start) * 1000
        sock.close()

        def is_ours(connection: Connection) -> bool:
            return belongs(
                connection,
                place.pod,
                target.endpoints,
                began=began,
                own_port=None if captured and connection.side is Side.SERVER else source_port,
            )

        event = None
        if _is_reported(world, target, reached, captured=captured, node=node):
            event = await first_report(new, is_ours)
    return Attempt(
        source=str(place.pod),
        source_port=source_port,
        address=target.address,
        port=target.port,
        reached=reached,
        reply=reply.decode(errors="replace"),
        detail=detail,
        elapsed_ms=round(elapsed_ms, 1),
        event=event,
    )


async def first_report(
    new: AsyncIterator[Connection], is_ours: Callable[[Connection], bool]
) -> Connection | None:
    """The first of the proxy's reports that ``is_ours``; None if there is none soon.

    A report that the other end aborted is only returned if there is no report with the reason.
    """
    echo = None
    try:
        async with asyncio.timeout(REPORT_SECONDS):
            async for connection in new:
                if is_ours(connection):
                    if not is_echo(connection):
                        return connection
                    echo = echo or connection
    except TimeoutError:
        pass
    return echo


async def _hear(sock: socket.socket, reply: bytearray) -> Reached:
    """Wait for the beginning of the answer; append it to ``reply``."""
    reply += await asyncio.get_running_loop().sock_recv(sock, _MOST_BYTES)
    return Reached.ANSWERED if reply else Reached.CLOSED


async def _hear_on(sock: socket.socket, reply: bytearray) -> None:
    """Append the rest of the answer to ``reply``, as long as data keeps coming."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):  # including a timeout
        while reply and len(reply) < _MOST_BYTES:
            async with asyncio.timeout(_QUIET_SECONDS):
                chunk = await loop.sock_recv(sock, _MOST_BYTES)
            if not chunk:
                return
            reply += chunk


def _is_reported(
    world: World, target: Target, reached: Reached, *, captured: bool, node: str = ""
) -> bool:
    """Whether the node's proxy reports it."""
    if not target.endpoints or reached is Reached.UNREACHABLE:
        return False
    pods = [pod_at(world, endpoint.address) for endpoint in target.endpoints]
    if any(pod.captured and node in {"", pod.node} for pod in pods if pod):
        return True
    # The client's own proxy reports only failures.
    return captured and reached in {Reached.RESET, Reached.CLOSED}


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
    """An IP from the kernel's form: each 32 bits are a number in the machine's byte order."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    packed = b"".join(struct.pack("=I", word) for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6  # noqa: PLR2004 - IPv4's
    address = ip_address(socket.inet_ntop(family, packed))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
