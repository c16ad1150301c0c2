from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from troth.envoy.process import (
    EnvoyOptions,
    EnvoyProcess,
    LogLine,
    command,
    find_envoy,
    parse_log_line,
)
from troth.errors import EnvironmentLackError
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.conftest import InNode

    Until = Callable[[Callable[[], object]], Awaitable[None]]


DOOMED_PARENT = """
import asyncio, os, pathlib, sys
from troth.envoy.process import EnvoyOptions, EnvoyProcess, find_envoy

async def main():
    bootstrap = pathlib.Path(sys.argv[1])
    envoy = EnvoyProcess(EnvoyOptions(bootstrap=bootstrap, binary=find_envoy()))
    await envoy.start()
    print(envoy.pid, flush=True)
    while not bootstrap.with_name("admin").exists():
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def proc_status(pid: int | None) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def at_once(_: float) -> None:
    """A sleep for tests."""


def bootstrap_of(run_dir: Path) -> dict[str, object]:
    return {"admin": {"address": {"pipe": {"path": str(run_dir / "admin")}}}}


@pytest.fixture
def options(run_dir: Path) -> EnvoyOptions:
    (run_dir / "bootstrap.json").write_text(json.dumps(bootstrap_of(run_dir)))
    return EnvoyOptions(bootstrap=run_dir / "bootstrap.json", binary=find_envoy())


@pytest.fixture
async def envoy(options: EnvoyOptions) -> AsyncIterator[EnvoyProcess]:
    process = EnvoyProcess(options, backoff=Backoff(0.1, 5.0, at_once=True))
    yield process
    await process.stop()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"warning|main|There is no limit", LogLine("warning", "main", "There is no limit")),
        (b"critical|assert|a|b", LogLine("critical", "assert", "a|b")),
        (b"trace|http|x", LogLine("debug", "http", "x")),
        (
            b"error|config|listener \\'a\\' failed",
            LogLine("error", "config", "listener 'a' failed"),
        ),
        (b"warning|main|caught ENVOY_SIGTERM", LogLine("debug", "main", "caught ENVOY_SIGTERM")),
        (b"PARSE ERROR: Argument: -x", LogLine("error", "", "PARSE ERROR: Argument: -x")),
        (b"loud|main|x", LogLine("error", "", "loud|main|x")),
        (b"\xff", LogLine("error", "", "\N{REPLACEMENT CHARACTER}")),
    ],
    ids=["warning", "bars", "trace", "escaped", "routine", "foreign", "unknown level", "no utf-8"],
)
def test_a_log_line_is_read(line: bytes, expected: LogLine) -> None:
    assert parse_log_line(line) == expected


def test_capabilities_are_left_alone_unless_named(options: EnvoyOptions) -> None:
    assert not [word for word in command(options) if "bounding" in word]
    limited = command(
        EnvoyOptions(
            bootstrap=options.bootstrap, binary=options.binary, capabilities=("net_admin",)
        )
    )
    assert "--bounding-set=-all,+net_admin" in limited
    assert "--no-new-privs" in limited


def test_hot_restart_is_off_unless_a_base_id_is_given(options: EnvoyOptions) -> None:
    assert "--disable-hot-restart" in command(options)
    hot = command(EnvoyOptions(bootstrap=options.bootstrap, binary=options.binary, base_id=7))
    assert "--disable-hot-restart" not in hot
    assert hot[hot.index("--base-id") + 1] == "7"


def test_a_missing_envoy_is_named_before_anything_starts(run_dir: Path) -> None:
    with pytest.raises(EnvironmentLackError, match="is not an executable"):
        command(EnvoyOptions(bootstrap=run_dir / "b", binary=run_dir / "envoy"))


def test_a_missing_setpriv_is_named(options: EnvoyOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EnvironmentLackError, match="util-linux"):
        command(options)


@pytest.mark.e2e
async def test_envoy_starts_and_stops(envoy: EnvoyProcess, run_dir: Path, until: Until) -> None:
    await envoy.start()
    await until((run_dir / "admin").exists)
    assert envoy.pid is not None
    await envoy.stop()
    assert envoy.pid is None
    # Envoy's own handler gives 0; so early in its life the signal may come before that is set.
    assert envoy.last_exit in {0, -signal.SIGTERM}
    assert envoy.restarts == 0


@pytest.mark.e2e
async def test_a_killed_envoy_is_started_again(
    envoy: EnvoyProcess, run_dir: Path, until: Until
) -> None:
    await envoy.start()
    await until((run_dir / "admin").exists)
    first = envoy.pid
    assert first is not None
    (run_dir / "admin").unlink()
    os.kill(first, signal.SIGKILL)
    await until((run_dir / "admin").exists)
    assert envoy.restarts == 1
    assert envoy.last_exit == -signal.SIGKILL
    assert envoy.pid not in {None, first}


@pytest.mark.e2e
async def test_an_envoy_that_cannot_start_is_tried_again_and_its_words_are_logged(
    options: EnvoyOptions, until: Until
) -> None:
    options.bootstrap.write_text("{]")
    envoy = EnvoyProcess(options, sleep=at_once)
    with capture_logs() as logs:
        await envoy.start()
        await until(lambda: envoy.restarts >= 2)
        await envoy.stop()
    assert envoy.last_exit
    assert any("bootstrap.json" in entry["event"] for entry in logs)


@pytest.mark.e2e
async def test_an_envoy_that_ignores_sigterm_is_killed(run_dir: Path, until: Until) -> None:
    deaf = run_dir / "envoy"
    deaf.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
        "while True: signal.pause()\n"
    )
    deaf.chmod(0o700)
    envoy = EnvoyProcess(EnvoyOptions(bootstrap=run_dir / "up", binary=deaf))
    await envoy.start()
    await until((run_dir / "up").exists)
    await envoy.stop(deadline=0.05)
    assert envoy.last_exit == -signal.SIGKILL


@pytest.mark.e2e
async def test_envoy_dies_with_whoever_started_it(options: EnvoyOptions, until: Until) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DOOMED_PARENT,
        str(options.bootstrap),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await parent.communicate()
    assert parent.returncode == -signal.SIGKILL
    pid = int(output.split()[0])

    def gone() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z"

    await until(gone)


async def envoy_with_two_capabilities(run_dir: Path) -> None:
    (run_dir / "bootstrap.json").write_text(json.dumps(bootstrap_of(run_dir)))
    envoy = EnvoyProcess(
        EnvoyOptions(
            bootstrap=run_dir / "bootstrap.json",
            binary=find_envoy(),
            capabilities=("net_admin", "sys_admin"),
        )
    )
    await envoy.start()
    while not (run_dir / "admin").exists():  # noqa: ASYNC110  files set no events
        await asyncio.sleep(0.01)
    status = proc_status(envoy.pid)
    await envoy.stop()
    net_admin, sys_admin = 1 << 12, 1 << 21
    assert int(status["CapBnd"], 16) == net_admin | sys_admin
    assert int(status["CapPrm"], 16) & ~(net_admin | sys_admin) == 0
    assert status["NoNewPrivs"] == "1"


@pytest.mark.e2e
def test_envoy_has_only_the_capabilities_it_is_given(
    in_node_namespace: InNode, run_dir: Path
) -> None:
    in_node_namespace(envoy_with_two_capabilities, run_dir)
