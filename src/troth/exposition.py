"""A very small HTTP server for one page, at a TCP port or a Unix socket: what Prometheus scrapes.

It answers GET and HEAD of ``/metrics`` and closes the connection. Requests are hostile until
parsed: their head is bounded in size and time, and so is the number of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import stat
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from troth.listen import ListenAddress

_log = structlog.get_logger(__name__)

PATH = "/metrics"

_MOST_CONNECTIONS = 32
_LONGEST_HEAD = 16 * 1024
_PATIENCE_SECONDS = 10
_REQUEST_LINE = re.compile(rb"(?P<method>[A-Z]{1,16}) (?P<target>[!-~]{1,2048}) HTTP/1\.[01]")
_LOOK_AGAIN_SECONDS = 1.0


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A body with its ``Content-Type``."""

    content_type: str
    body: bytes


@contextlib.asynccontextmanager
async def serving(address: ListenAddress, page: Callable[[str], Page]) -> AsyncIterator[None]:
    """Serve for as long as the context lasts.

    Args:
        address: Where. A Unix socket is made 0600, so it is its owner's alone; a TCP port is
            anybody's who can reach it.
        page: Makes the page, given the request's ``Accept`` header.

    Raises:
        EnvironmentLackError: The address can't be listened on.
    """
    server = _Server(page)
    try:
        listener = _listen(address)
    except OSError as error:
        raise EnvironmentLackError(
            f"cannot listen on {address}: {error.strerror}", "choose another address"
        ) from error
    running = await asyncio.start_server(server.accept, sock=listener, limit=_LONGEST_HEAD)
    try:
        yield
    finally:
        running.close()
        await server.stop()
        if address.path:
            _remove(Path(address.path))


async def serve_when_free(address: ListenAddress, page: Callable[[str], Page]) -> None:
    """Serve until cancelled, once the address can be listened on; arguments as of `serving`.

    For a program whose predecessor may be there yet, and which has more important things to do.
    """
    reason = ""
    while True:
        try:
            async with serving(address, page):
                await asyncio.get_running_loop().create_future()
        except EnvironmentLackError as error:
            if reason != str(error):
                reason = str(error)
                _log.warning("metrics are not shown yet", reason=reason)
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def _listen(address: ListenAddress) -> socket.socket:
    if not address.path and not address.host:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", address.port), family=family, dualstack_ipv6=both)
    if not address.path:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family)
    _remove_stale(Path(address.path))
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(address.path)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen()
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket of ours that nobody listens on any more; anything else is in the way."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


class _Server:
    def __init__(self, page: Callable[[str], Page]) -> None:
        self._page = page
        self._connections: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MOST_CONNECTIONS:
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
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        first, *fields = head.split(b"\r\n")
        request = _REQUEST_LINE.fullmatch(first)
        if request is None:
            return _response(HTTPStatus.BAD_REQUEST)
        if request["target"].partition(b"?")[0] != PATH.encode():
            return _response(HTTPStatus.NOT_FOUND)
        if request["method"] not in {b"GET", b"HEAD"}:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, extra="Allow: GET, HEAD\r\n")
        page = self._page(_accept(fields))
        with_body = request["method"] == b"GET"
        return _response(HTTPStatus.OK, page, with_body=with_body)


def _accept(fields: list[bytes]) -> str:
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == b"accept":
            return value.strip().decode("latin-1")
    return ""


def _response(
    status: HTTPStatus, page: Page | None = None, *, with_body: bool = True, extra: str = ""
) -> bytes:
    page = page or Page(content_type="text/plain", body=f"{status.phrase}\n".encode())
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + (page.body if with_body else b"")
