"""What is heard from Envoy's worker."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

from troth.envoy import worker as worker_module
from troth.envoy.bootstrap import bootstrap
from troth.envoy.command import EnvoyOptions, find_envoy
from troth.envoy.limits import Limits
from troth.envoy.process import EnvoyProcess
from troth.envoy.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import pytest

    Until = Callable[[Callable[[], object]], Awaitable[None]]


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


async def test_a_worker_has_caught_up_when_it_has_answered_three_times(run_dir: Path) -> None:
    asked = asyncio.Queue[asyncio.StreamWriter]()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked.put(writer)

    server = await asyncio.start_unix_server(accept, run_dir / "worker")
    waiting = asyncio.create_task(Worker(run_dir / "worker").caught_up())
    for _ in range(3):
        writer = await asked.get()
        assert not waiting.done()
        writer.write(b".")
        writer.close()
    await waiting
    server.close()


async def test_nobody_waits_for_a_worker_that_is_gone(run_dir: Path) -> None:
    await Worker(run_dir / "worker").caught_up()


async def test_nobody_waits_for_ever_for_a_worker_that_does_not_answer(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_PATIENCE_SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(run_dir / "worker"))
        silent.listen()
        await Worker(run_dir / "worker").caught_up()


async def test_envoys_worker_answers(
    run_dir: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bootstrap(
        node_id="test",
        ads_socket=run_dir / "ads",
        admin_socket=run_dir / "admin",
        worker_socket=run_dir / "worker",
        reset_socket=run_dir / "reset",
        limits=Limits(connections=100),
    )
    # Listeners don't begin before the ADS server has been asked for others, and there is none.
    del made["dynamic_resources"], made["layered_runtime"]
    (run_dir / "bootstrap.json").write_text(json.dumps(made))
    envoy = EnvoyProcess(EnvoyOptions(bootstrap=run_dir / "bootstrap.json", binary=find_envoy()))
    await envoy.start()
    try:
        await until(lambda: listens(run_dir / "worker"))
        assert (run_dir / "worker").stat().st_mode & 0o777 == 0o600
        monkeypatch.setattr(worker_module, "_PATIENCE_SECONDS", 60)
        await Worker(run_dir / "worker").caught_up()
        reader, writer = await asyncio.open_unix_connection(run_dir / "worker")
        assert await reader.read() == b"."
        writer.close()
    finally:
        await envoy.stop()
