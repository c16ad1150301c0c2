"""The kubelet's exec probe, asking what the node agent serves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.http_server import health_pages, serving
from troth.sockets import ListenAddress

if TYPE_CHECKING:
    from pathlib import Path


class Readiness(msgspec.Struct, frozen=True):
    waiting_for: tuple[str, ...] = ()


async def probe(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "troth.probe", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize(
    ("waiting_for", "path", "code"),
    [
        pytest.param((), "/readyz", 0, id="ready"),
        pytest.param(("Envoy",), "/readyz", 1, id="not ready"),
        pytest.param(("Envoy",), "/healthz", 0, id="alive though not ready"),
        pytest.param((), "/other", 1, id="another path"),
    ],
)
async def test_the_exit_code_is_the_answer(
    tmp_path: Path, waiting_for: tuple[str, ...], path: str, code: int
) -> None:
    address = ListenAddress(path=str(tmp_path / "health"))
    async with serving(address, health_pages(lambda: Readiness(waiting_for))):
        done, text = await probe(str(tmp_path / "health"), path)
    assert done == code
    assert ("Envoy" in text) is (code == 1 and path == "/readyz")


async def test_who_does_not_answer_is_not_healthy(tmp_path: Path) -> None:
    code, text = await probe(str(tmp_path / "health"))
    assert (code, text) == (1, f"{tmp_path}/health: No such file or directory\n")


async def test_the_wrong_use_is_told() -> None:
    code, text = await probe()
    assert code == 2
    assert text.startswith("usage: ")
