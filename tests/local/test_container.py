from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.agent import netns
from troth.control.messages import ContainerStatus, State
from troth.local.container import how_ended, restarts
from troth.local.network import Network
from troth.local.pod import summarize
from troth.local.probes import ProbeHistory, ask, status_of
from troth.manifests.workloads import HttpGet, Probe, RestartPolicy
from troth.mesh.model import PodPhase

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import InNode

ALWAYS, ON_FAILURE, NEVER = RestartPolicy

WAITING = ContainerStatus(name="c")
RUNNING = ContainerStatus(name="c", state=State.RUNNING, reason="")
READY = ContainerStatus(name="c", state=State.RUNNING, reason="", ready=True)
DONE = ContainerStatus(name="c", state=State.TERMINATED, exit_code=0)
FAILED = ContainerStatus(name="c", state=State.TERMINATED, exit_code=1)
CRASHED = ContainerStatus(name="c", reason="CrashLoopBackOff", exit_code=1)


@pytest.mark.parametrize(
    ("init", "containers", "policy", "phase", "ready"),
    [
        pytest.param([], [WAITING], ALWAYS, PodPhase.PENDING, False, id="nothing started"),
        pytest.param([RUNNING], [WAITING], ALWAYS, PodPhase.PENDING, False, id="init runs"),
        pytest.param([CRASHED], [WAITING], ALWAYS, PodPhase.PENDING, False, id="init is retried"),
        pytest.param([FAILED], [WAITING], NEVER, PodPhase.FAILED, False, id="init failed for good"),
        pytest.param([FAILED], [WAITING], ALWAYS, PodPhase.PENDING, False, id="init just failed"),
        pytest.param([DONE], [RUNNING], ALWAYS, PodPhase.RUNNING, False, id="not ready yet"),
        pytest.param([DONE], [READY], ALWAYS, PodPhase.RUNNING, True, id="ready"),
        pytest.param([], [READY, RUNNING], ALWAYS, PodPhase.RUNNING, False, id="one of two"),
        pytest.param([], [READY, READY], ALWAYS, PodPhase.RUNNING, True, id="both are ready"),
        pytest.param([], [CRASHED], ALWAYS, PodPhase.RUNNING, False, id="crash loop"),
        pytest.param([], [FAILED], ALWAYS, PodPhase.RUNNING, False, id="about to be restarted"),
        pytest.param([], [FAILED], ON_FAILURE, PodPhase.RUNNING, False, id="about to be retried"),
        pytest.param([], [DONE], ON_FAILURE, PodPhase.SUCCEEDED, False, id="done on failure"),
        pytest.param([], [DONE, DONE], NEVER, PodPhase.SUCCEEDED, False, id="all done"),
        pytest.param([], [DONE, FAILED], NEVER, PodPhase.FAILED, False, id="one failed"),
        pytest.param([], [DONE, READY], NEVER, PodPhase.RUNNING, False, id="one still runs"),
    ],
)
def test_a_pods_phase_and_readiness_follow_from_its_containers(
    init: list[ContainerStatus],
    containers: list[ContainerStatus],
    policy: RestartPolicy,
    phase: PodPhase,
    ready: bool,  # noqa: FBT001 - a table's column
) -> None:
    status = summarize(init, containers, policy)
    assert (status.phase, status.ready) == (phase, ready)


@pytest.mark.parametrize(
    ("policy", "code", "main", "init"),
    [
        (ALWAYS, 0, True, False),
        (ALWAYS, 1, True, True),
        (ON_FAILURE, 0, False, False),
        (ON_FAILURE, 1, True, True),
        (NEVER, 0, False, False),
        (NEVER, 1, False, False),
    ],
)
def test_the_restart_policy_decides_who_starts_again(
    policy: RestartPolicy,
    code: int,
    main: bool,  # noqa: FBT001 - a table's column
    init: bool,  # noqa: FBT001 - a table's column
) -> None:
    assert restarts(policy, code) is main
    assert restarts(policy, code, init=True) is init


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "exit code 3"), (137, "by SIGKILL"), (128, "exit code 128"), (255, "exit code 255")],
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert words in how_ended(code)


ADDRESS = "127.0.0.1"


def test_without_a_probe_a_container_is_ready_at_once() -> None:
    assert ProbeHistory(None, started=0).ready


def test_the_first_probe_waits_for_the_initial_delay_and_the_next_for_the_period() -> None:
    readiness = ProbeHistory(Probe(tcp_port=1, initial_delay=5, period=3), started=100)
    assert readiness.next_at == 105
    readiness.observe(ok=True, now=107)
    assert readiness.next_at == 110
    readiness.observe(ok=False, now=112)
    assert readiness.next_at == 115


def test_an_app_that_starts_is_asked_more_often_and_then_at_its_period() -> None:
    readiness = ProbeHistory(Probe(tcp_port=1, period=1), started=0)
    delays = []
    for _ in range(6):
        now = readiness.next_at
        readiness.observe(ok=False, now=now)
        delays.append(readiness.next_at - now)
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1, 1, 1])


def test_a_container_counts_as_alive_until_its_probe_has_failed_often_enough() -> None:
    life = ProbeHistory(Probe(tcp_port=1, period=5, failure_threshold=2), started=0, alive=True)
    assert life.ready
    assert not life.observe(ok=False, now=0)
    assert life.next_at == 5
    assert life.observe(ok=False, now=5)
    assert not life.ready


@pytest.mark.parametrize(
    ("answers", "ready"),
    [
        pytest.param("-", False, id="not ready before the first success"),
        pytest.param("+", False, id="one success of two"),
        pytest.param("++", True, id="two successes in a row"),
        pytest.param("+-+", False, id="a failure between starts over"),
        pytest.param("++--", True, id="two failures of three"),
        pytest.param("++--+--", True, id="a success between starts over"),
        pytest.param("++---", False, id="three failures in a row"),
        pytest.param("++---+", False, id="and again one success of two"),
        pytest.param("++---++", True, id="and again two"),
    ],
)
def test_thresholds_count_answers_in_a_row(answers: str, ready: bool) -> None:  # noqa: FBT001 - a table's column
    probe = Probe(tcp_port=1, success_threshold=2, failure_threshold=3)
    readiness = ProbeHistory(probe, started=0)
    for now, answer in enumerate(answers):
        before = readiness.ready
        changed = readiness.observe(ok=answer == "+", now=now)
        assert changed is (before is not readiness.ready)
    assert readiness.ready is ready


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.0 404\n", 404),
        (b"HTTP/1.1 20x OK\r\n", None),
        (b"HTTP/1.1 +20 OK\r\n", None),
        (b"HTTP/1.1 2000 OK\r\n", None),
        (b"SSH-2.0-OpenSSH\r\n", None),
        (b"\r\n", None),
    ],
)
def test_only_a_status_line_has_a_status(line: bytes, status: int | None) -> None:
    assert status_of(line) == status


@given(st.binary())
def test_any_bytes_have_a_status_or_none(line: bytes) -> None:
    assert status_of(line) is None or 0 <= (status_of(line) or 0) <= 999


async def answer_of(
    directory: Path, answer: bytes | None, probe: Callable[[int], Probe], seen: list[bytes]
) -> str:
    """What a probe of a server that answers so (None: never) says."""
    path = directory / "pod"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is not None:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            writer.close()

    with netns.socket_in(path, socket.AF_INET) as listener:
        listener.bind((ADDRESS, 0))
        listener.listen()
        port = listener.getsockname()[1]
        async with await asyncio.start_server(serve, sock=listener.dup()):
            return await ask(probe(port), netns=path, address=ADDRESS, execute=never)


async def never(_: tuple[str, ...]) -> int:
    raise AssertionError


async def http_probes_take_2xx_and_3xx(directory: Path) -> None:
    netns.create(directory / "pod")
    seen: list[bytes] = []
    get = HttpGet(port=0, path="healthz", headers=(("host", "web"), ("X-A", "1")))

    def probe(port: int) -> Probe:
        return Probe(http_get=HttpGet(port=port, path=get.path, headers=get.headers))

    for status, wrong in ((200, ""), (399, ""), (400, "status 400"), (503, "status 503")):
        answer = b"HTTP/1.1 %d x\r\n\r\n" % status
        assert await answer_of(directory, answer, probe, seen) == wrong
    assert seen[0] == (
        b"GET /healthz HTTP/1.1\r\nUser-Agent: troth-probe\r\nAccept: */*\r\n"
        b"Connection: close\r\nhost: web\r\nX-A: 1\r\n\r\n"
    )
    assert await answer_of(directory, b"SSH-2.0\r\n", probe, seen) == "the answer is not HTTP"
    assert await answer_of(directory, b"x" * 5000, probe, seen) == "the answer is not HTTP"
    assert "0 bytes read" in await answer_of(directory, b"", probe, seen)
    assert await answer_of(directory, None, probe, seen) == "no answer within 1 s"


async def a_closed_port_is_not_ready(directory: Path) -> None:
    path = directory / "pod"
    netns.create(path)
    for probe in (Probe(tcp_port=9), Probe(http_get=HttpGet(port=9))):
        wrong = await ask(probe, netns=path, address=ADDRESS, execute=never)
        assert wrong == "port 9: Connection refused"


async def an_open_port_is_ready_in_its_pod_alone(directory: Path) -> None:
    network = Network()
    await network.start()
    for name in ("one", "two"):
        netns.create(directory / name)
    (address, *_) = await network.add_pod("one", directory / "one")
    await network.add_pod("two", directory / "two")
    with netns.socket_in(directory / "one", socket.AF_INET) as listener:
        listener.bind((ADDRESS, 8080))
        listener.listen()
        for name, right in (("one", True), ("two", False)):
            wrong = await ask(
                Probe(tcp_port=8080), netns=directory / name, address=ADDRESS, execute=never
            )
            assert (wrong == "") is right
        assert address.startswith("10.")
    await network.stop()


SCENARIOS = [
    http_probes_take_2xx_and_3xx,
    a_closed_port_is_not_ready,
    an_open_port_is_ready_in_its_pod_alone,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_in_a_pod(scenario: Any, in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(scenario, tmp_path)


@pytest.mark.parametrize(
    ("code", "wrong"),
    [(0, ""), (1, "check ended with exit code 1"), (127, "check ended with exit code 127")],
)
async def test_an_exec_probe_asks_for_the_exit_code(tmp_path: Path, code: int, wrong: str) -> None:
    async def execute(argv: tuple[str, ...]) -> int:
        assert argv == ("check", "-v")
        return code

    probe = Probe(command=("check", "-v"))
    assert await ask(probe, netns=tmp_path, address=ADDRESS, execute=execute) == wrong


async def test_a_pod_that_is_gone_is_not_ready(tmp_path: Path) -> None:
    wrong = await ask(Probe(tcp_port=1), netns=tmp_path / "gone", address=ADDRESS, execute=never)
    assert "does not exist" in wrong


async def test_a_line_end_in_a_probe_header_never_reaches_the_app(tmp_path: Path) -> None:
    get = HttpGet(port=1, headers=(("X", "1\r\nEvil: 1"),))
    wrong = await ask(Probe(http_get=get), netns=tmp_path / "gone", address=ADDRESS, execute=never)
    assert wrong
