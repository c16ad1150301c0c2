"""What is heard from Envoy's worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from typing import TYPE_CHECKING

from troth.envoy import worker as worker_module
from troth.envoy.bootstrap import bootstrap
from troth.envoy.limits import Limits
from troth.envoy.process import EnvoyOptions, EnvoyProcess, find_envoy
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
    waiting = asyncio.create_task(Worker(run_dir / "worker", lambda: 1).caught_up())
    for _ in range(3):
        writer = await asked.get()
        assert not waiting.done()
        writer.write(b".")
        writer.close()
    await waiting
    server.close()


async def test_nobody_waits_for_the_worker_of_an_envoy_that_does_not_run(run_dir: Path) -> None:
    await Worker(run_dir / "worker", lambda: None).caught_up()


async def test_a_worker_that_does_not_listen_yet_is_asked_until_it_does(run_dir: Path) -> None:
    asked = asyncio.Event()

    def running() -> int:
        asked.set()
        return 1

    waiting = asyncio.create_task(Worker(run_dir / "worker", running).caught_up())
    for _ in range(3):
        asked.clear()
        await asked.wait()
    assert not waiting.done()
    answers = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        answers += 1
        writer.close()

    server = await asyncio.start_unix_server(answer, run_dir / "worker")
    await waiting
    assert answers == 3
    server.close()


async def test_a_worker_that_does_not_answer_is_waited_for_until_its_envoy_has_ended(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_LOOK_SECONDS", 0.001)
    pid, looks, often = 1, 0, asyncio.Event()

    def running() -> int:
        nonlocal looks
        looks += 1
        if looks == 50:
            often.set()
        return pid

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(run_dir / "worker"))
        silent.listen()
        waiting = asyncio.create_task(Worker(run_dir / "worker", running).caught_up())
        await often.wait()
        assert not waiting.done()
        pid = 2
        await waiting


async def test_envoys_worker_answers(run_dir: Path, until: Until) -> None:
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
        await Worker(run_dir / "worker", lambda: envoy.pid).caught_up()
        reader, writer = await asyncio.open_unix_connection(run_dir / "worker")
        assert await reader.read() == b"."
        writer.close()
        # Its worker hangs, and then it is killed.
        assert envoy.pid is not None
        os.kill(envoy.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(Worker(run_dir / "worker", lambda: envoy.pid).caught_up())
        os.kill(envoy.pid, signal.SIGKILL)
        await waiting
    finally:
        await envoy.stop()
