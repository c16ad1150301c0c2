from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from troth.agent import netns
from troth.control.messages import State
from troth.errors import InputError, PeerError, Problem
from troth.local.launch import Bind
from troth.local.pod import PodRunner, Prepared
from troth.local.processes import members
from troth.manifests.workloads import Container, Hook, HttpGet, PodTemplate, Probe, RestartPolicy
from troth.mesh.model import Pod, PodPhase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import InNode

    from troth.local.pod import PodStatus

SERVER = (sys.executable, "-m", "http.server", "8080")
CONNECT = "import socket; socket.create_connection(('127.0.0.1', 8080))"
ENV = {"PATH": os.environ["PATH"]}


class Watched:
    """A pod with its history."""

    def __init__(self, directory: Path, template: PodTemplate, **arguments: Any) -> None:
        self.netns = directory / "netns"
        netns.create(self.netns)
        self.namespace = netns.inode(self.netns)
        self.directory = directory / "pod"
        self.history: list[PodStatus] = []
        self._changed = asyncio.Event()
        self.runner = PodRunner(
            Pod(uid="uid-1", namespace="finance", name="web", addresses=("127.0.0.1",)),
            template,
            netns=self.netns,
            directory=self.directory,
            working_directory=Path("/"),
            on_change=self._note,
            **{"prepare": lambda _: Prepared(env=ENV), **arguments},
        )

    def _note(self, status: PodStatus) -> None:
        self.history.append(status)
        self._changed.set()

    async def until(self, condition: Callable[[PodStatus], object]) -> PodStatus:
        while not any(map(condition, self.history)):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 20)
        return next(filter(condition, self.history))

    def log(self, container: str = "app") -> str:
        return (self.directory / f"{container}.log").read_text()

    async def until_logged(self, text: str, container: str = "app") -> None:
        log = self.directory / f"{container}.log"
        async with asyncio.timeout(20):
            while not log.exists() or text not in self.log(container):  # noqa: ASYNC110 - a file is no event
                await asyncio.sleep(0.01)


def shell(script: str, name: str = "app", **fields: Any) -> Container:
    return Container(name=name, command=("sh", "-c", script), **fields)


def volume(source: Path, target: str, *, read_only: bool = False) -> Bind:
    return Bind(source=str(source), inside="", target=target, read_only=read_only, own=True)


@contextlib.asynccontextmanager
async def pod(directory: Path, *containers: Container, **fields: Any) -> AsyncIterator[Watched]:
    arguments = {k: fields.pop(k) for k in ("prepare", "hidden") if k in fields}
    shared = Prepared(env=ENV, binds=(volume(directory, str(directory)),))
    arguments.setdefault("prepare", lambda _: shared)
    template = PodTemplate(namespace="finance", name="web", containers=containers, **fields)
    watched = Watched(directory, template, **arguments)
    watched.runner.start(hosts="127.0.0.1 localhost\n10.0.0.9 payments\n", resolv_conf="search a\n")
    try:
        yield watched
    finally:
        await watched.runner.stop(grace=5)


async def it_runs_and_its_output_is_logged(directory: Path) -> None:
    script = "hostname; getent hosts payments; echo bad >&2; exec sleep 1000"
    async with pod(directory, shell(script)) as watched:
        status = await watched.until(lambda status: status.ready)
        assert status.phase is PodPhase.RUNNING
        assert status.containers[0].pid in set(members(watched.namespace))
        await watched.until_logged("bad")
        assert watched.log().split() == ["web", "10.0.0.9", "payments", "bad"]
        assert stat.S_IMODE((watched.directory / "app.log").stat().st_mode) == 0o600
    assert watched.runner.status.containers[0].exit_code == 128 + signal.SIGTERM
    assert not watched.runner.status.ready


async def a_crashing_container_is_started_again(directory: Path) -> None:
    async with pod(directory, shell("echo run; exit 3")) as watched:
        waiting = await watched.until(lambda s: s.containers[0].reason == "CrashLoopBackOff")
        assert waiting.containers[0].exit_code == 3
        assert waiting.containers[0].message == "the last exit code was 3"
        assert waiting.containers[0].starts_again is not None
        assert not waiting.ready
        await watched.until(lambda s: s.containers[0].restarts == 1)
        await watched.until(
            lambda s: s.containers[0].restarts == 1 and s.containers[0].state is State.TERMINATED
        )
        assert (watched.log(), watched.log("app.previous")) == ("run\n", "run\n")


async def a_pod_that_never_restarts_ends(directory: Path) -> None:
    for code, phase in ((0, PodPhase.SUCCEEDED), (4, PodPhase.FAILED)):
        place = directory / str(code)
        place.mkdir()
        once = RestartPolicy.NEVER
        async with pod(place, shell(f"exit {code}"), restart_policy=once) as watched:
            status = await watched.until(lambda s: s.containers[0].state is State.TERMINATED)
            assert (status.phase, status.containers[0].exit_code) == (phase, code)


async def init_containers_come_first_and_in_order(directory: Path) -> None:
    note = f"{directory}/order"
    init = tuple(shell(f"echo {name} >> {note}", name) for name in ("first", "second"))
    main = shell(f"cat {note}; exec sleep 1000")
    async with pod(directory, main, init_containers=init) as watched:
        assert (await watched.until(lambda s: s.init_containers[0].pid)).phase is PodPhase.PENDING
        await watched.until(lambda s: s.ready)
        await watched.until_logged("first\nsecond\n")


def sidecar(script: str, name: str = "side", **fields: Any) -> Container:
    return shell(script, name, is_sidecar=True, **fields)


async def a_sidecar_is_started_before_the_app_and_goes_on_beside_it(directory: Path) -> None:
    note = directory / "note"
    init = (
        sidecar("exec sleep 1000", post_start=Hook(command=("sh", "-c", f"echo first >> {note}"))),
        shell(f"echo second >> {note}", "init"),
    )
    main = shell(f"echo app >> {note}; echo up; exec sleep 1000")
    async with pod(directory, main, init_containers=init) as watched:
        await watched.until_logged("up")
        status = await watched.until(lambda s: s.ready)
        assert status.phase is PodPhase.RUNNING
        assert status.init_containers[0].state is State.RUNNING
        assert note.read_text().split() == ["first", "second", "app"]


async def the_next_container_waits_for_a_sidecars_post_start_hook(directory: Path) -> None:
    note = directory / "note"
    hook = Hook(command=("sh", "-c", f"sleep 0.3; echo hook >> {note}"))
    main = shell(f"echo app >> {note}; echo up; exec sleep 1000")
    async with pod(
        directory, main, init_containers=(sidecar("exec sleep 1000", post_start=hook),)
    ) as watched:
        await watched.until_logged("up")
        assert note.read_text().split() == ["hook", "app"]


async def a_sidecar_that_ends_is_started_again_whatever_the_pods_policy(directory: Path) -> None:
    never = RestartPolicy.NEVER
    init = (sidecar("exit 3"),)
    async with pod(
        directory, shell("exec sleep 1000"), init_containers=init, restart_policy=never
    ) as watched:
        await watched.until(lambda s: s.init_containers[0].restarts)
        assert {each.phase for each in watched.history} <= {PodPhase.PENDING, PodPhase.RUNNING}


async def a_pod_is_as_ready_as_its_sidecars(directory: Path) -> None:
    probe = Probe(command=("test", "-e", str(directory / "warm")), period=1)
    init = (sidecar("exec sleep 1000", readiness=probe),)
    async with pod(directory, shell("exec sleep 1000"), init_containers=init) as watched:
        status = await watched.until(lambda s: s.containers[0].ready)
        assert not status.ready
        (directory / "warm").touch()
        await watched.until(lambda s: s.ready)


async def sidecars_end_after_the_app_in_reverse_order(directory: Path) -> None:
    note = directory / "note"
    ends = "trap 'echo {0} >> {1}; exit' TERM; echo up; while :; do sleep 0.05; done"
    init = tuple(sidecar(ends.format(name, note), name) for name in ("one", "two"))
    async with pod(directory, shell(ends.format("app", note)), init_containers=init) as watched:
        for name in ("one", "two", "app"):
            await watched.until_logged("up", name)
    assert note.read_text().split() == ["app", "two", "one"]


async def a_job_is_over_when_all_but_its_sidecars_are(directory: Path) -> None:
    never = RestartPolicy.NEVER
    init = (sidecar("exec sleep 1000"),)
    async with pod(
        directory, shell("exit 0"), init_containers=init, restart_policy=never
    ) as watched:
        over = await watched.until(
            lambda s: (
                s.phase is PodPhase.SUCCEEDED and s.init_containers[0].state is State.TERMINATED
            )
        )
        assert over.init_containers[0].exit_code == 128 + signal.SIGTERM


async def a_failed_init_container_keeps_the_others_from_starting(directory: Path) -> None:
    main = shell("echo started")
    never = RestartPolicy.NEVER
    init = (shell("exit 1", "init"),)
    async with pod(directory, main, init_containers=init, restart_policy=never) as watched:
        await watched.until(lambda s: s.phase is PodPhase.FAILED)
        await asyncio.wait_for(watched.runner._task or asyncio.sleep(0), 10)
    assert watched.runner.status.containers[0].reason == "PodInitializing"
    assert not (watched.directory / "app.log").exists()


STUBBORN = """
trap '' TERM
(setsid sh -c 'trap "" TERM; echo daemon; sleep 1000' &)
sleep 1000; sleep 1000
"""


async def stopping_ends_daemons_and_the_stubborn(directory: Path) -> None:
    outside = await asyncio.create_subprocess_exec("sleep", "1000")
    async with pod(directory, shell(STUBBORN)) as watched:
        await watched.until_logged("daemon")
        assert len(set(members(watched.namespace))) > 2
        before = time.monotonic()
        await watched.runner.stop(grace=0.1)
        assert time.monotonic() - before < 20
        assert set(members(watched.namespace)) == set()
    assert watched.runner.status.containers[0].exit_code == 128 + signal.SIGKILL
    assert outside.returncode is None
    outside.kill()
    await outside.wait()


CHURN = """
import threading
def chain():
    threading.Thread(target=chain).start()
for _ in range(3):
    chain()
print("churning", flush=True)
"""


async def a_process_whose_threads_come_and_go_is_a_member(directory: Path) -> None:
    container = Container(name="app", command=(sys.executable, "-c", CHURN))
    async with pod(directory, container) as watched:
        await watched.until_logged("churning")
        pid = watched.runner.status.containers[0].pid
        assert all(pid in set(members(watched.namespace)) for _ in range(50))


async def sigterm_gives_time_to_finish(directory: Path) -> None:
    script = "trap 'echo finished; exit 7' TERM; echo up; while :; do sleep 0.01; done"
    async with pod(directory, shell(script)) as watched:
        await watched.until_logged("up")
    assert watched.runner.status.containers[0].exit_code == 7
    assert "finished" in watched.log()


async def only_the_first_process_is_told_to_end(directory: Path) -> None:
    script = """
    trap 'echo finishing; kill -9 $child; exit 0' TERM
    sh -c 'trap "echo told, too" TERM; echo up; while :; do sleep 0.01; done' & child=$!
    while :; do sleep 0.01; done
    """
    async with pod(directory, shell(script)) as watched:
        await watched.until_logged("up")
    assert watched.log() == "up\nfinishing\n"


async def a_pod_has_its_own_grace_period(directory: Path) -> None:
    go = directory / "go"
    script = f"trap 'echo told; until [ -e {go} ]; do sleep 0.01; done; exit 0' TERM; echo up; "
    forever = "while :; do sleep 0.01; done"
    async with pod(directory, shell(script + forever), termination_grace_seconds=60) as watched:
        await watched.until_logged("up")
        stopping = asyncio.create_task(watched.runner.stop())
        await watched.until_logged("told")
        assert 50 < watched.runner.patience < 60
        go.touch()
        assert await stopping == ()
    assert watched.runner.status.containers[0].exit_code == 0


async def an_end_can_be_hurried(directory: Path) -> None:
    script = "trap 'echo told' TERM; echo up; while :; do sleep 0.01; done"
    async with pod(directory, shell(script), termination_grace_seconds=600) as watched:
        await watched.until_logged("up")
        stopping = asyncio.create_task(watched.runner.stop())
        await watched.until_logged("told")
        watched.runner.hurry(0)
        assert await stopping == ("container app: killed, as it did not end in time",)
    assert watched.runner.status.containers[0].exit_code == 128 + signal.SIGKILL


TELLS = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.01; done"


async def the_pre_stop_hook_comes_before_sigterm(directory: Path) -> None:
    log = directory / "pod/app.log"
    command = ("sh", "-c", f"grep told {log} || echo hooked > {directory}/hooked; exit 3")
    container = shell(TELLS, pre_stop=Hook(command=command))
    async with pod(directory, container) as watched:
        await watched.until_logged("up")
        complaints = await watched.runner.stop()
    assert complaints == ("container app: its preStop hook failed: sh ended with exit code 3",)
    assert (directory / "hooked").read_text() == "hooked\n"
    assert watched.log() == "up\ntold\n"


async def the_time_of_the_pre_stop_hook_is_part_of_the_grace_period(directory: Path) -> None:
    hook = Hook(command=("sleep", "1000"))
    async with pod(directory, shell(TELLS, pre_stop=hook), termination_grace_seconds=1) as watched:
        await watched.until_logged("up")
        (complaint,) = await watched.runner.stop()
    assert complaint.endswith("its preStop hook failed: it takes longer than the grace period")
    assert watched.log() == "up\ntold\n"  # with a little time of its own, as in a cluster
    assert set(members(watched.namespace)) == set()


async def a_pre_stop_hook_that_is_cut_short_is_not_told_to_have_taken_too_long(
    directory: Path,
) -> None:
    log = directory / "pod/app.log"
    hook = Hook(command=("sh", "-c", f"echo hooked >> {log}; sleep 1000"))
    async with pod(directory, shell(TELLS, pre_stop=hook), termination_grace_seconds=60) as watched:
        await watched.until_logged("up")
        stopping = asyncio.create_task(watched.runner.stop())
        await watched.until_logged("hooked")
        watched.runner.hurry(0)
        complaint, *_ = await stopping
    assert complaint.endswith("its preStop hook failed: it was cut short")


async def a_container_that_ended_meanwhile_has_its_pre_stop_hook_broken_off(
    directory: Path,
) -> None:
    go = directory / "go"
    script = f"echo up; until [ -e {go} ]; do sleep 0.01; done"
    hook = Hook(command=("sh", "-c", f"touch {go}; sleep 1000"))
    async with pod(
        directory, shell(script, pre_stop=hook), termination_grace_seconds=600
    ) as watched:
        await watched.until_logged("up")
        assert await watched.runner.stop() == ()
    assert watched.runner.status.containers[0].exit_code == 0


async def a_hook_may_be_a_request_or_a_pause(directory: Path) -> None:
    request = Hook(http_get=HttpGet(port=8080, path="/bye"))
    ready = Probe(tcp_port=8080, period=1)
    server = Container(name="app", command=SERVER, readiness=ready, pre_stop=request)
    resting = shell(TELLS, "resting", pre_stop=Hook(sleep=1))
    async with pod(directory, server, resting) as watched:
        await watched.until(lambda s: s.ready)
        assert await watched.runner.stop() == ()  # the answer's status is not looked at
    assert 'GET /bye HTTP/1.1" 404' in watched.log()


async def a_container_is_ready_once_its_post_start_hook_has_worked(directory: Path) -> None:
    go = directory / "go"
    hook = Hook(command=("sh", "-c", f"until [ -e {go} ]; do sleep 0.01; done"))
    async with pod(directory, shell("echo up; exec sleep 1000", post_start=hook)) as watched:
        await watched.until_logged("up")
        assert not watched.runner.status.ready
        go.touch()
        await watched.until(lambda s: s.ready)


async def a_container_whose_post_start_hook_fails_is_started_again(directory: Path) -> None:
    hook = Hook(command=("false",))
    async with pod(directory, shell("exec sleep 1000", post_start=hook)) as watched:
        waiting = await watched.until(lambda s: s.containers[0].reason == "CrashLoopBackOff")
        assert waiting.containers[0].message == (
            "its postStart hook failed: false ended with exit code 1"
        )
        assert not any(status.ready for status in watched.history)


async def a_missing_reference_is_said_and_tried_again(directory: Path) -> None:
    answers: list[Any] = [
        InputError([Problem(subject="Pod a/b", path="spec.x", found="no", wanted="yes")]),
        Prepared(env=ENV),
    ]

    def prepare(_: Container) -> Prepared:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Prepared)
        return answer

    async with pod(directory, shell("exec sleep 1000"), prepare=prepare) as watched:
        refused = await watched.until(
            lambda s: s.containers[0].reason == "CreateContainerConfigError"
        )
        assert refused.containers[0].message == "Pod a/b: spec.x: no; yes"
        await watched.until(lambda s: s.ready)


async def a_path_that_cannot_be_one_is_said_and_the_pod_can_be_stopped(directory: Path) -> None:
    def prepare(_: Container) -> Prepared:
        Path("zero\0byte").stat()
        raise AssertionError

    async with pod(directory, shell("exec sleep 1000"), prepare=prepare) as watched:
        refused = await watched.until(lambda s: s.containers[0].reason == "RunContainerError")
        assert refused.containers[0].message == "embedded null byte"


async def a_container_is_ready_when_its_probe_says_so(directory: Path) -> None:
    go = directory / "go"
    server = shell(f"until [ -e {go} ]; do sleep 0.01; done; exec {' '.join(SERVER)}")
    prepared = Prepared(env=ENV, binds=(volume(directory, str(directory)),))

    def shared(_: Container) -> Prepared:
        return prepared

    probes = {
        "tcp": Probe(tcp_port=8080, period=1),
        "exec": Probe(command=("test", "-e", str(go)), period=1),
    }
    for name, probe in probes.items():
        place = directory / name
        place.mkdir()
        go.unlink(missing_ok=True)
        container = Container(name="app", command=server.command, readiness=probe)
        async with pod(place, container, prepare=shared) as watched:
            status = await watched.until(lambda s: "not ready" in s.containers[0].message)
            assert not status.ready
            go.touch()
            await watched.until(lambda s: s.ready)
            assert status.phase is PodPhase.RUNNING


async def exec_runs_in_the_container(directory: Path) -> None:
    async with pod(directory, shell("exec sleep 1000", name="app")) as watched:
        with pytest.raises(KeyError):
            watched.runner.exec_command(["true"], container="other")
        await watched.until(lambda s: s.ready)
        command = watched.runner.exec_command(["sh", "-c", "hostname; exit 3"])
        done = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await done.communicate()
        assert (said, done.returncode) == (b"web\n", 3)


async def two_containers_share_the_network(directory: Path) -> None:
    server = Container(name="app", command=SERVER)
    client = shell(
        f'until {sys.executable} -c "{CONNECT}" 2>&-; do sleep 0.1; done; exec sleep 1000',
        "client",
        readiness=Probe(tcp_port=8080, period=1),
    )
    async with pod(directory, server, client) as watched:
        await watched.until(lambda s: s.ready)


async def there_is_nothing_to_start_in(directory: Path) -> None:
    template = PodTemplate(namespace="finance", name="web", containers=(shell("true"),))
    watched = Watched(directory, template)
    netns.remove(watched.netns)
    with pytest.raises(PeerError, match="does not exist"):
        watched.runner.start(hosts="", resolv_conf="")
    await watched.runner.stop(grace=0)


async def the_state_is_hidden_but_volumes_show(directory: Path) -> None:
    state = directory / "state"
    (state / "volume").mkdir(parents=True)
    (state / "volume/file").write_text("shown")
    (state / "key").write_text("secret")
    bind = volume(state / "volume", "/nowhere/yet", read_only=True)
    script = f"cat /nowhere/yet/file {state}/key; exec sleep 1000"
    async with pod(
        directory,
        shell(script),
        prepare=lambda _: Prepared(env=ENV, binds=(bind,)),
        hidden=[state],
    ) as watched:
        await watched.until_logged("No such file")
        assert watched.log().startswith("shown")
        assert "secret" not in watched.log()


SCENARIOS = [
    it_runs_and_its_output_is_logged,
    a_crashing_container_is_started_again,
    a_pod_that_never_restarts_ends,
    init_containers_come_first_and_in_order,
    a_failed_init_container_keeps_the_others_from_starting,
    a_sidecar_is_started_before_the_app_and_goes_on_beside_it,
    the_next_container_waits_for_a_sidecars_post_start_hook,
    a_sidecar_that_ends_is_started_again_whatever_the_pods_policy,
    a_pod_is_as_ready_as_its_sidecars,
    sidecars_end_after_the_app_in_reverse_order,
    a_job_is_over_when_all_but_its_sidecars_are,
    stopping_ends_daemons_and_the_stubborn,
    a_process_whose_threads_come_and_go_is_a_member,
    sigterm_gives_time_to_finish,
    only_the_first_process_is_told_to_end,
    a_pod_has_its_own_grace_period,
    an_end_can_be_hurried,
    the_pre_stop_hook_comes_before_sigterm,
    the_time_of_the_pre_stop_hook_is_part_of_the_grace_period,
    a_pre_stop_hook_that_is_cut_short_is_not_told_to_have_taken_too_long,
    a_container_that_ended_meanwhile_has_its_pre_stop_hook_broken_off,
    a_hook_may_be_a_request_or_a_pause,
    a_container_is_ready_once_its_post_start_hook_has_worked,
    a_container_whose_post_start_hook_fails_is_started_again,
    a_missing_reference_is_said_and_tried_again,
    a_path_that_cannot_be_one_is_said_and_the_pod_can_be_stopped,
    a_container_is_ready_when_its_probe_says_so,
    exec_runs_in_the_container,
    two_containers_share_the_network,
    there_is_nothing_to_start_in,
    the_state_is_hidden_but_volumes_show,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_pod(scenario: Any, in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(scenario, tmp_path)
