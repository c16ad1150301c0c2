"""What a kubelet does to a running container: asks its probes, runs its hooks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
from typing import TYPE_CHECKING

import grpc

from troth.agent.netns import socket_in
from troth.errors import TrothError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from troth.manifests.workloads import GrpcCheck, Hook, HttpGet, Probe

_LONGEST_STATUS_LINE = 1024
_FIRST_PERIOD = 0.1
"""Seconds; doubled after each failure until it is the probe's own period."""

_CHUNK = 65536
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
"""A ``HealthCheckResponse`` with ``status: SERVING``."""


class ProbeHistory:
    """Whether a container counts as ready, by the answers to its probe. Times in seconds.

    One that has never been ready is asked more often at first, as the kubelet may do: an app that
    needs half a second to start shall not wait for the next round.

    Args:
        probe: The thresholds and times; None means ready from the start.
        started: When the container was started.
        alive: It is a liveness probe's: it counts as ready from the start, and isn't asked sooner.
    """

    def __init__(self, probe: Probe | None, started: float, *, alive: bool = False) -> None:
        self._probe = probe
        self._row = 0
        self._last: bool | None = None
        self._period = probe.period if probe and alive else _FIRST_PERIOD
        self.ready = probe is None or alive
        self.lost_at = (
            started + probe.initial_delay + probe.period * probe.failure_threshold if probe else 0.0
        )
        self.next_at = started + (probe.initial_delay if probe else 0)

    def observe(self, *, ok: bool, now: float) -> bool:
        """Takes the answer to a probe that ended ``now``; whether ``ready`` has changed by it."""
        if self._probe is None:
            return False
        self._row = self._row + 1 if ok is self._last else 1
        self._last = ok
        self._period = self._probe.period if ok else min(2 * self._period, self._probe.period)
        self.next_at = now + self._period
        threshold = self._probe.success_threshold if ok else self._probe.failure_threshold
        if ok is self.ready or self._row < threshold:
            return False
        self.ready = ok
        return True


async def ask(
    probe: Probe,
    *,
    netns: Path,
    address: str,
    execute: Callable[[tuple[str, ...]], Awaitable[int]],
) -> str:
    """Probes once; empty when the answer is yes, else what was wrong.

    Args:
        probe: What to ask.
        netns: The pod's network namespace.
        address: The pod's, which is where ports are tried.
        execute: Runs a command in the container and gives its exit code.
    """
    try:
        async with asyncio.timeout(probe.timeout):
            if probe.command is not None:
                code = await execute(probe.command)
                return f"{probe.command[0]} ended with exit code {code}" if code else ""
            if probe.http_get is not None:
                return _judged(await http_status(probe.http_get, netns, address))
            if probe.grpc is not None:
                return await _ask_grpc(probe.grpc, netns, address)
            if probe.tcp_port is not None:
                (await _connect(netns, address, probe.tcp_port)).close()
            return ""
    except TimeoutError:
        return f"no answer within {probe.timeout} s"
    except (OSError, TrothError, asyncio.IncompleteReadError, ValueError) as error:
        return str(error)


def _judged(status: int | None) -> str:
    if status is None:
        return "the answer is not HTTP"
    return "" if 200 <= status < 400 else f"status {status}"  # noqa: PLR2004 - the kubelet's range


async def _ask_grpc(check: GrpcCheck, netns: Path, address: str) -> str:
    """Ask by gRPC's health checking protocol (``grpc.health.v1``)."""
    connection = await _connect(netns, address, check.port)
    service = check.service.encode()
    length = bytes((len(service) % 128 | 128, len(service) // 128))  # a varint of two bytes
    request = b"\x0a" + length + service if service else b""
    async with _relayed(connection) as target, grpc.aio.insecure_channel(target) as channel:
        try:
            reply: bytes = await channel.unary_unary(_HEALTH)(request)
        except grpc.aio.AioRpcError as error:
            return f"gRPC status {error.code().name}: {error.details()}"
    return "" if reply == _SERVING else f"{check.service or 'the server'} is not SERVING"


@contextlib.asynccontextmanager
async def _relayed(connection: socket.socket) -> AsyncIterator[str]:
    """Where gRPC may reach what ``connection`` leads to: it takes no sockets that we have made.

    It is an abstract socket of the mesh's own network namespace, where no container is.
    """
    pumps: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                writer.write(data)
                await writer.drain()
        writer.close()

    to_pod = await asyncio.open_connection(sock=connection)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for source, target in ((reader, to_pod[1]), (to_pod[0], writer)):
            pumps.append(asyncio.get_running_loop().create_task(pump(source, target)))

    name = f"troth-probe-{secrets.token_hex(8)}"
    server = await asyncio.start_unix_server(accept, path=f"\0{name}")
    try:
        yield f"unix-abstract:{name}"
    finally:
        server.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        to_pod[1].transport.abort()


async def http_status(get: HttpGet, netns: Path, address: str) -> int | None:
    """The status of the answer to a request from inside the pod; None when that isn't HTTP.

    Raises:
        OSError: There is no connection, or it ended early.
        asyncio.IncompleteReadError: It ended amid the status line.
        ValueError: The request would not be one.
    """
    connection = await _connect(netns, address, get.port)
    encrypted = get.scheme == "HTTPS"
    try:
        reader, writer = await asyncio.open_connection(
            sock=connection,
            limit=_LONGEST_STATUS_LINE,
            ssl=_unverified() if encrypted else None,
            server_hostname=address if encrypted else None,
        )
    except BaseException:
        connection.close()
        raise
    try:
        writer.write(_request(get, address))
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        return None
    finally:
        writer.transport.abort()
    return status_of(line)


def status_of(line: bytes) -> int | None:
    """The code of an HTTP/1 status line (RFC 9112 section 4), None when it is no such line."""
    match line.split(maxsplit=2):
        case [version, code, *_] if version.startswith(b"HTTP/1.") and len(code) == len(b"200"):
            return int(code) if code.isdigit() else None
        case _:
            return None


def _request(get: HttpGet, address: str) -> bytes:
    host = f"[{address}]:{get.port}" if ":" in address else f"{address}:{get.port}"
    headers = {"Host": host, "User-Agent": "troth-probe", "Accept": "*/*", "Connection": "close"}
    # As the kubelet has it: a header of the manifest replaces ours of the same name.
    given = {name.title() for name, _ in get.headers}
    pairs = [(name, value) for name, value in headers.items() if name not in given]
    lines = [f"{name}: {value}" for name, value in (*pairs, *get.headers)]
    path = get.path if get.path.startswith("/") else f"/{get.path}"
    if any(character in "\r\n" for line in (path, *lines) for character in line):
        raise ValueError("a line end in the probe's path or headers")
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


async def _connect(netns: Path, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket_in(netns, family)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except OSError as error:
        connection.close()
        raise OSError(f"port {port}: {os.strerror(error.errno or 0)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _unverified() -> ssl.SSLContext:
    """Takes any certificate, as the kubelet does: the question is whether the app answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def run_hook(
    hook: Hook,
    *,
    netns: Path,
    address: str,
    execute: Callable[[tuple[str, ...]], Awaitable[int]],
) -> str:
    """Run a hook to its end, however long that takes; empty if it worked, else what was wrong.

    Args:
        hook: What to do. Any answer to an ``httpGet`` will do, whatever its status.
        netns: The pod's network namespace.
        address: The pod's, which is where ports are asked.
        execute: Runs a command in the container and gives its exit code.
    """
    try:
        if hook.command is not None:
            code = await execute(hook.command)
            return f"{hook.command[0]} ended with exit code {code}" if code else ""
        if hook.http_get is not None:
            await http_status(hook.http_get, netns, address)
            return ""
        await asyncio.sleep(hook.sleep or 0)
    except (OSError, TrothError, asyncio.IncompleteReadError, ValueError) as error:
        return str(error)
    return ""
