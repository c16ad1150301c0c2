"""What the kubelet hears."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from troth.controller.run import ControllerReadiness
from troth.health import health_server

READY = ControllerReadiness(leading=False, leader="other")
NOT_READY = ControllerReadiness(
    leading=True, leader="me", waiting_for=("the certificate authority",)
)


async def told(readiness: ControllerReadiness, request: bytes) -> tuple[str, dict[str, Any] | None]:
    """The status line and the body."""
    async with health_server(lambda: readiness, port=0, host="127.0.0.1") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0].decode(), json.loads(body) if body else None


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
    async with health_server(lambda: READY, port=0, host="127.0.0.1") as port:
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
