"""What Prometheus and the kubelet get, and what anybody else does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from troth import http_server
from troth.controller.run import ControllerReadiness
from troth.errors import EnvironmentLackError
from troth.http_server import Page, health_pages, metrics_pages, serve_when_free, serving
from troth.sockets import ListenAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Path]:
    """A served page that shows the Accept header; its socket."""
    path = tmp_path / "metrics"
    address = ListenAddress(path=str(path))
    async with serving(
        address, metrics_pages(lambda accept: Page(content_type="text/x", body=accept.encode()))
    ):
        yield path


async def ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    with contextlib.suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer
    return b""


async def test_the_page_is_served_with_its_type_and_length(page: Path) -> None:
    answer = await ask(page, b"GET /metrics HTTP/1.1\r\nHost: x\r\naccept:  a/b \r\n\r\n")
    assert answer == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 3\r\n"
        b"Connection: close\r\n\r\na/b"
    )


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200", id="HEAD"),
        pytest.param(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200", id="a query"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", b"404", id="another path"),
        pytest.param(b"GET /metrics/../etc HTTP/1.1\r\n\r\n", b"404", id="a path with dots"),
        pytest.param(b"POST /metrics HTTP/1.1\r\n\r\n", b"405", id="another method"),
        pytest.param(b"GET /metrics HTTP/2\r\n\r\n", b"400", id="another version"),
        pytest.param(b"\x16\x03\x01\x00\r\n\r\n", b"400", id="TLS"),
        pytest.param(b"\r\n\r\n", b"400", id="nothing"),
        pytest.param(b"GET /\xff HTTP/1.1\r\n\r\n", b"400", id="no ASCII"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 20_000, b"431", id="a long head"),
    ],
)
async def test_requests_are_judged_before_they_are_answered(
    page: Path, request_: bytes, status: bytes
) -> None:
    assert (await ask(page, request_)).split(b" ")[1] == status


async def test_head_gets_no_body(page: Path) -> None:
    answer = await ask(page, b"HEAD /metrics HTTP/1.1\r\nAccept: abc\r\n\r\n")
    assert b"Content-Length: 3\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_client_that_says_nothing_is_not_waited_for(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_PATIENCE_SECONDS", 0.05)
    reader, writer = await asyncio.open_unix_connection(page)
    assert await reader.read() == b""
    writer.close()


async def test_more_clients_than_there_is_room_for_are_turned_away(page: Path) -> None:
    waiting = [await asyncio.open_unix_connection(page) for _ in range(32)]
    while await ask(page, b"GET /metrics HTTP/1.1\r\n\r\n"):  # noqa: ASYNC110 - until all are accepted
        await asyncio.sleep(0.01)
    for _, writer in waiting:
        writer.close()
    while not await ask(page, b"GET /metrics HTTP/1.1\r\n\r\n"):  # noqa: ASYNC110 - until they are gone
        await asyncio.sleep(0.01)


async def test_the_socket_is_its_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    async with serving(
        ListenAddress(path=str(path)), metrics_pages(lambda _: Page(content_type="", body=b""))
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_socket_that_nobody_listens_on_any_more_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(
        ListenAddress(path=str(path)), metrics_pages(lambda _: Page(content_type="", body=b"x"))
    ):
        assert (await ask(path, b"GET /metrics HTTP/1.1\r\n\r\n")).endswith(b"x")


async def test_what_is_in_the_way_stays(tmp_path: Path, page: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, page, tmp_path / "missing" / "metrics"):
        with pytest.raises(EnvironmentLackError, match="cannot listen on"):
            async with serving(ListenAddress(path=str(path)), metrics_pages(lambda _: None)):  # type: ignore[arg-type,return-value]  # never asked
                pass
    assert file.read_text() == "mine"
    assert await ask(page, b"GET /metrics HTTP/1.1\r\n\r\n")


async def test_a_tcp_port_is_served_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = ListenAddress(host="127.0.0.1", port=port)
    async with serving(address, metrics_pages(lambda _: Page(content_type="", body=b"x"))):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"x")
        writer.close()


@pytest.mark.parametrize("asked", ["127.0.0.1", "::1"])
async def test_a_port_without_an_address_is_served_once_it_is_free_and_everywhere(
    asked: str,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        page = Page(content_type="", body=b"x")
        serving = asyncio.create_task(
            serve_when_free(ListenAddress(port=port), metrics_pages(lambda _: page))
        )
        await asyncio.sleep(0)
        assert not serving.done()
    try:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection(asked, port)
                    break
                await asyncio.sleep(0.05)
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"x")
            writer.close()
    finally:
        serving.cancel()


ANY_PORT = ListenAddress(host="127.0.0.1")
READY = ControllerReadiness(leading=False, leader="other")
NOT_READY = ControllerReadiness(
    leading=True, leader="me", waiting_for=("the certificate authority",)
)


async def told(readiness: ControllerReadiness, request: bytes) -> tuple[str, dict[str, Any] | None]:
    """The status line and the body."""
    async with serving(ANY_PORT, health_pages(lambda: readiness)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0].decode(), json.loads(body) if body.startswith(b"{") else None


@pytest.mark.parametrize(
    ("readiness", "path", "status"),
    [
        pytest.param(READY, "/readyz", "200 OK", id="a follower is ready"),
        pytest.param(NOT_READY, "/readyz", "503 Service Unavailable", id="blocked"),
        pytest.param(NOT_READY, "/healthz", "200 OK", id="alive though blocked"),
        pytest.param(READY, "/readyz2", "404 Not Found", id="another path"),
    ],
)
async def test_a_path_is_answered(readiness: ControllerReadiness, path: str, status: str) -> None:
    line, _ = await told(readiness, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert line == f"HTTP/1.1 {status}"


async def test_what_is_in_the_way_is_named() -> None:
    _, body = await told(NOT_READY, b"GET /readyz HTTP/1.1\r\n\r\n")
    assert body == {
        "leading": True,
        "leader": "me",
        "waiting_for": ["the certificate authority"],
        "rotation": [],
    }


@pytest.mark.parametrize(
    "garbage", [b"", b"GET /readyz", b"x" * 100_000, b"POST /readyz x\r\n\r\n"]
)
async def test_who_asks_strangely_does_no_harm(garbage: bytes) -> None:
    answer = b""
    async with serving(ANY_PORT, health_pages(lambda: READY)) as port:
        for request in (garbage, b"GET /healthz HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            writer.write_eof()
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
            writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
