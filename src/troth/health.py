"""``/healthz`` and ``/readyz`` for the kubelet: plain HTTP, two paths, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

_REQUEST_SECONDS = 5.0
_LONGEST_REQUEST = 4096


class Readiness(Protocol):
    """What a program says of itself: a msgspec.Struct, because ``/readyz`` answers with it."""

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What is in the way, in words; ready when there is nothing."""
        ...


@contextlib.asynccontextmanager
async def health_server(
    readiness: Callable[[], Readiness], *, port: int, host: str | None = None
) -> AsyncIterator[int]:
    """Answer while the block runs.

    Args:
        readiness: Asked at every request.
        port: Where to listen; 0 for any.
        host: Which address to listen on; all by default, as the kubelet comes by the pod's.

    Yields:
        The port.

    Raises:
        OSError: The port is taken.
    """
    server = await asyncio.start_server(_answering(readiness), host, port, limit=_LONGEST_REQUEST)
    async with server:
        # With port 0 each address family gets a port of its own; IPv4's is the one that is told.
        told = min(server.sockets, key=lambda each: each.family)
        yield told.getsockname()[1]


@contextlib.asynccontextmanager
async def health_socket(readiness: Callable[[], Readiness], path: Path) -> AsyncIterator[None]:
    """Answer on a Unix socket while the block runs; see `troth.probe`.

    Args:
        readiness: Asked at every request.
        path: The socket.

    Raises:
        OSError: There can't be one.
    """
    server = await asyncio.start_unix_server(_answering(readiness), path, limit=_LONGEST_REQUEST)
    async with server:
        yield


def _answering(
    readiness: Callable[[], Readiness],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever asks strangely or hangs up is nobody's problem.
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError, EOFError):
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(request, readiness))
                await writer.drain()
        writer.close()

    return answer


def _response(request: bytes, readiness: Callable[[], Readiness]) -> bytes:
    match request.split(b" ", 2):
        case [b"GET", b"/healthz", _]:
            status, body = HTTPStatus.OK, b"{}"
        case [b"GET", b"/readyz", _]:
            state = readiness()
            body = msgspec.json.encode(state)
            status = HTTPStatus.SERVICE_UNAVAILABLE if state.waiting_for else HTTPStatus.OK
        case _:
            status, body = HTTPStatus.NOT_FOUND, b"{}"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
