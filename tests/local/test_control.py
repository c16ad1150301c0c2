"""The control socket, between two ends of one process."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest

from troth.control.protocol import call
from troth.errors import EnvironmentLackError, InputError, PeerError, Problem
from troth.local.control import Answer, ControlServer, from_outside
from troth.unix_sockets import Peer, is_our_user

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


async def _numbers(request: Mapping[str, Any]) -> Answer:
    for number in range(request["count"]):
        yield {"number": number}


async def _ask(path: Path, op: str, **arguments: object) -> list[dict[str, Any]]:
    return await asyncio.to_thread(lambda: list(call(path, op, **arguments)))


async def test_an_answer_comes_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with ControlServer(path, {"numbers": _numbers}, admits=is_our_user).serving():
        assert await _ask(path, "numbers", count=3) == [{"number": n} for n in range(3)]


async def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with ControlServer(path, {}, admits=is_our_user).serving():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(
            PeerError("nft", "said no", "ask again"), "nft: said no; ask again", id="a peer"
        ),
        pytest.param(PeerError("nft", "said no"), "nft: said no", id="a peer without remedy"),
        pytest.param(PeerError("troth", "is busy", "wait"), "is busy; wait", id="the mesh itself"),
        pytest.param(
            EnvironmentLackError("no nft", "install it"),
            "no nft; install it",
            id="environment",
        ),
        pytest.param(
            InputError([Problem(subject="a", path="b", found="is wrong", wanted="be right")]),
            "a: b: is wrong; be right",
            id="input",
        ),
    ],
)
async def test_an_error_is_told_once_and_in_full(
    tmp_path: Path, error: Exception, text: str
) -> None:
    async def fail(_: Mapping[str, Any]) -> Answer:
        yield {"begun": True}
        raise error

    path = tmp_path / "control.sock"
    async with ControlServer(path, {"fail": fail}, admits=is_our_user).serving():
        with pytest.raises(PeerError) as refused:
            await _ask(path, "fail")
    assert str(refused.value) == text


async def test_a_mesh_that_ends_without_an_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        answer = asyncio.create_task(_ask(path, "numbers", count=3))
        await asyncio.to_thread(select.select, [listener], [], [])
    with pytest.raises(PeerError, match="the mesh ended before it answered"):
        await answer


async def test_a_request_nobody_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with ControlServer(path, {"numbers": _numbers}, admits=is_our_user).serving():
        with pytest.raises(PeerError, match="not a request: 'other'"):
            await _ask(path, "other")


def test_without_a_mesh_the_way_to_start_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="start one with: troth up"):
        next(call(tmp_path / "control.sock", "status"))


async def _say(path: Path, request: bytes) -> bytes:
    """Send any bytes as a request; the whole answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    "request_line",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\n", id="another protocol"),
        pytest.param(b"[]\n", id="no object"),
        pytest.param(b"{}\n", id="no op"),
        pytest.param(b'{"op": ["numbers"]}\n', id="an op that is no name"),
        pytest.param(b"\xff\xfe\n", id="no text"),
        pytest.param(b'{"op": "numbers"', id="half a request"),
        pytest.param(b" " * 200_000 + b"\n", id="too long"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_next_one_is_served(
    tmp_path: Path, request_line: bytes
) -> None:
    path = tmp_path / "control.sock"
    async with ControlServer(path, {"numbers": _numbers}, admits=is_our_user).serving():
        answer = await _say(path, request_line)
        assert answer.startswith(b'{"error":"not a request')
        assert answer.count(b"\n") == 1
        assert await _ask(path, "numbers", count=1) == [{"number": 0}]


async def test_the_answer_to_a_client_that_went_away_is_ended(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(_: Mapping[str, Any]) -> Answer:
        try:
            yield {"begun": True}
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    path = tmp_path / "control.sock"
    async with ControlServer(path, {"endless": endless}, admits=is_our_user).serving():
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"op": "endless"}\n')
        await begun.wait()
        writer.close()
        await ended.wait()


async def test_answers_that_go_on_end_with_the_server_and_the_socket_is_gone(
    tmp_path: Path,
) -> None:
    async def endless(_: Mapping[str, Any]) -> Answer:
        yield {"begun": True}
        await asyncio.Event().wait()

    path = tmp_path / "control.sock"
    async with ControlServer(path, {"endless": endless}, admits=is_our_user).serving():
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"op": "endless"}\n')
        assert await reader.readline() == b'{"begun":true}\n'
    assert await reader.read() == b""
    writer.close()
    assert not path.exists()


async def test_a_bug_in_an_answer_is_told_without_its_inside_and_ends_nothing_else(
    tmp_path: Path,
) -> None:
    async def buggy(_: Mapping[str, Any]) -> Answer:
        yield {"secret": 1 / 0}

    path = tmp_path / "control.sock"
    async with ControlServer(
        path, {"buggy": buggy, "numbers": _numbers}, admits=is_our_user
    ).serving():
        with pytest.raises(PeerError, match="an internal error") as refused:
            await _ask(path, "buggy")
        assert "ZeroDivisionError" not in str(refused.value)
        assert await _ask(path, "numbers", count=1) == [{"number": 0}]


async def test_whoever_sees_the_socket_may_ask(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    answers: list[object] = []

    def ask_at_once() -> None:
        while not path.exists():
            pass
        try:
            answers.extend(call(path, "numbers", count=1))
        except PeerError as error:
            answers.append(error)

    for _ in range(100):
        asker = threading.Thread(target=ask_at_once)
        asker.start()
        async with ControlServer(path, {"numbers": _numbers}, admits=is_our_user).serving():
            await asyncio.to_thread(asker.join)
    assert answers == [{"number": 0}] * 100


async def test_who_is_in_the_meshs_own_pid_namespace_is_not_answered(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with ControlServer(path, {"numbers": _numbers}).serving():
        with pytest.raises(PeerError, match="only outside of the mesh"):
            await _ask(path, "numbers", count=1)


def test_who_is_another_user_is_not_answered() -> None:
    assert from_outside(Peer(pid=0, uid=os.geteuid()))
    assert not from_outside(Peer(pid=0, uid=os.geteuid() + 1))
