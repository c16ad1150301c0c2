"""The control socket, between two ends of one process."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Any

import pytest

from troth.errors import EnvironmentLackError, InputError, PeerError, Problem
from troth.local._control import Answer, ControlServer, call

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
    async with ControlServer(path, {"numbers": _numbers}).serving():
        assert await _ask(path, "numbers", count=3) == [{"number": n} for n in range(3)]


async def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with ControlServer(path, {}).serving():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(
            PeerError("nft", "said no", "ask again"), "nft: said no; ask again", id="a peer"
        ),
        pytest.param(PeerError("nft", "said no"), "nft: said no", id="a peer without remedy"),
        pytest.param(
            EnvironmentLackError("no nft", "install it"),
            "troth: no nft; install it",
            id="environment",
        ),
        pytest.param(
            InputError([Problem(subject="a", path="b", found="is wrong", wanted="be right")]),
            "troth: a: b: is wrong; be right",
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
    async with ControlServer(path, {"fail": fail}).serving():
        with pytest.raises(PeerError) as refused:
            await _ask(path, "fail")
    assert str(refused.value) == text


async def test_a_request_nobody_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with ControlServer(path, {"numbers": _numbers}).serving():
        with pytest.raises(PeerError, match="not a request: 'other'"):
            await _ask(path, "other")


def test_without_a_mesh_the_way_to_start_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="start one with: troth up"):
        next(call(tmp_path / "control.sock", "status"))
