"""A very small HTTP server for health and metrics, at a TCP port or a Unix socket.

It answers GET and HEAD of a few paths and closes the connection. Requests are hostile until parsed:
their head is limited in size and time, and so is the number of connections. prometheus_client's own
server has no such limits, uses a thread per connection, and doesn't support Unix sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec
import structlog

from troth.errors import EnvironmentLackError
from troth.unix_sockets import private_listener, remove_stale

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from troth.sockets import ListenAddress

_log = structlog.get_logger(__name__)

_LONGEST_HEAD = 16 * 1024
_PATIENCE_SECONDS = 10
_REQUEST_LINE = re.compile(rb"(?P<method>[A-Z]{1,16}) (?P<target>[!-~]{1,2048}) HTTP/1\.[01]")
_LOOK_AGAIN_SECONDS = 1.0

_MOST_CONNECTIONS = 32
MOST_HEALTH_CONNECTIONS = 1024
"""Enough that a few idle connections from anybody don't lock the kubelet out."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A body with its ``Content-Type``."""

    content_type: str
    body: bytes
    status: HTTPStatus = HTTPStatus.OK


Pages: TypeAlias = Mapping[str, Callable[[str], Page]]
"""By path, a function that makes a page for the request's ``Accept`` header."""


class Readiness(Protocol):
    """A program's readiness: a msgspec.Struct, because ``/readyz`` answers with it."""

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What it is waiting for, in words; if nothing, it is ready."""
        ...


def health_pages(readiness: Callable[[], Readiness]) -> Pages:
    """``/healthz`` and ``/readyz`` for the kubelet; ``readiness`` is called for every request."""

    def ready(_accept: str) -> Page:
        state = readiness()
        return Page(
            content_type="application/json",
            body=msgspec.json.encode(state),
            status=HTTPStatus.SERVICE_UNAVAILABLE if state.waiting_for else HTTPStatus.OK,
        )

    alive = Page(content_type="application/json", body=b"{}")
    return {"/healthz": lambda _accept: alive, "/readyz": ready}


def metrics_pages(page: Callable[[str], Page]) -> Pages:
    """``/metrics`` for Prometheus."""
    return {"/metrics": page}


@contextlib.asynccontextmanager
async def serving(
    address: ListenAddress,
    pages: Pages,
    *,
    most: int = _MOST_CONNECTIONS,
    remedy: str = "choose another address",
) -> AsyncIterator[int]:
    """Serve for as long as the context lasts.

    Args:
        address: Where to listen. A Unix socket has mode 0600, so only its owner can connect;
            anybody who can reach a TCP port can.
        pages: What to serve.
        most: The maximum number of connections; further ones are refused.
        remedy: The remedy if listening fails.

    Yields:
        The TCP port; 0 for a Unix socket.

    Raises:
        EnvironmentLackError: It can't listen on the address.
    """
    server = _Server(pages, most)
    try:
        listener = _listen(address)
    except OSError as error:
        lack = f"cannot listen on {address}: {error.strerror}"
        raise EnvironmentLackError(lack, remedy) from error
    running = await asyncio.start_server(server.accept, sock=listener, limit=_LONGEST_HEAD)
    try:
        yield 0 if address.path else listener.getsockname()[1]
    finally:
        running.close()
        await server.stop()
        if address.path:
            _remove(Path(address.path))


async def serve_when_free(address: ListenAddress, pages: Pages) -> None:
    """Serve until cancelled, as soon as the address is free; arguments as for `serving`.

    For a program whose predecessor may still be listening, and which has more important tasks.
    """
    reason = ""
    while True:
        try:
            async with serving(address, pages):
                await asyncio.get_running_loop().create_future()
        except EnvironmentLackError as error:
            if reason != str(error):
                reason = str(error)
                _log.warning("metrics are not served yet", reason=reason)
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def _listen(address: ListenAddress) -> socket.socket:
    if address.path:
        remove_stale(Path(address.path))
        return private_listener(Path(address.path))
    if address.host:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family)
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", address.port), family=family, dualstack_ipv6=both)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


class _Server:
    def __init__(self, pages: Pages, most: int) -> None:
        self._pages = pages
        self._most = most
        self._connections: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._most:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def stop(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    writer.write(await self._answer(reader))
                    await writer.drain()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        first, *fields = head.split(b"\r\n")
        request = _REQUEST_LINE.fullmatch(first)
        if request is None:
            return _refusal(HTTPStatus.BAD_REQUEST)
        make = self._pages.get(request["target"].partition(b"?")[0].decode())
        if make is None:
            return _refusal(HTTPStatus.NOT_FOUND)
        if request["method"] not in {b"GET", b"HEAD"}:
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, extra="Allow: GET, HEAD\r\n")
        return _response(make(_accept(fields)), with_body=request["method"] == b"GET")


def _accept(fields: list[bytes]) -> str:
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == b"accept":
            return value.strip().decode("latin-1")
    return ""


def _refusal(status: HTTPStatus, extra: str = "") -> bytes:
    page = Page(content_type="text/plain", body=f"{status.phrase}\n".encode(), status=status)
    return _response(page, extra=extra)


def _response(page: Page, *, with_body: bool = True, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + (page.body if with_body else b"")
