"""One container of a local pod: started, hooked, probed, and started again by its pod's rules."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.control.messages import ContainerStatus, State
from troth.errors import InputError, TrothError
from troth.local.launch import join_command, launch_command, note_path
from troth.local.probes import ProbeHistory, ask, run_hook
from troth.local.processes import ContainerLog, Process
from troth.manifests.workloads import RestartPolicy
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from troth.local.launch import LaunchSpec
    from troth.local.processes import PodNamespaces
    from troth.manifests.workloads import Container, Hook, Probe

_FIRST_RESTART_SECONDS, _LONGEST_RESTART_SECONDS = 1.0, 60.0
"""Less than the kubelet's 10 s to 5 min, because somebody is waiting at a terminal."""

_LAST_LINES, _LONGEST_LINE = 5, 300
"""What is told of the output of a container that has crashed."""

_LEAST_SECONDS = 2.0
"""What is left for the end proper after a ``preStop`` that took all; as the kubelet has it."""


def restarts(policy: RestartPolicy, exit_code: int, *, init: bool = False) -> bool:
    """Whether a container that ended with ``exit_code`` is started again.

    An init container that did its work is not, and that of a pod with ``Always`` is retried.
    """
    if policy is RestartPolicy.NEVER:
        return False
    if exit_code == 0:
        return policy is RestartPolicy.ALWAYS and not init
    return True


def how_ended(code: int) -> str:
    """In words: an exit code, or 128 + N when signal N ended it."""
    try:
        return f"ended by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"ended with exit code {code}"


class Patience:
    """The time that begins when a pod is to end (``terminationGracePeriodSeconds``).

    Args:
        seconds: How long it is; 0 or more.

    Attributes:
        is_cut: It has become shorter than it was.
    """

    def __init__(self, seconds: float) -> None:
        self._until = _now() + seconds
        self._least = min(seconds, _LEAST_SECONDS)
        self._limits: set[asyncio.Timeout] = set()
        self.is_cut = False

    @property
    def left(self) -> float:
        """Seconds that are left; 0 when it is over."""
        return max(self._until - _now(), 0.0)

    def cut(self, seconds: float) -> None:
        """Have it end ``seconds`` from now, if that is sooner."""
        until = _now() + seconds
        self.is_cut = self.is_cut or until < self._until
        self._until = min(self._until, until)
        self._least = min(self._least, seconds)
        for limit in self._limits:
            when = limit.when()
            if when is not None and when > until:
                limit.reschedule(until)

    def before_signal(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Limits what comes before SIGTERM: TimeoutError when the time is over."""
        return self._limited(self._until)

    def before_kill(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Limits what comes after SIGTERM: TimeoutError when it is time for SIGKILL."""
        return self._limited(max(self._until, _now() + self._least))

    @contextlib.asynccontextmanager
    async def _limited(self, until: float) -> AsyncIterator[None]:
        async with asyncio.timeout_at(until) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)


def _now() -> float:
    return asyncio.get_running_loop().time()


class ContainerRunner:
    """Runs one container until it is done for good, or its task is cancelled.

    Args:
        container: What to run.
        directory: The pod's, for the log and the launch spec.
        netns: The path of the pod's network namespace.
        make_spec: What the launcher needs; raises InputError when a reference leads nowhere.
        namespaces: The pod's, made before the first container is started.
        address: The pod's, for probes.
        policy: The pod's restart policy.
        grace: Seconds that it has to end when a probe finds it dead.
        init: Whether it is an init container that has to end before the next one is started.
        on_change: Called after each change of ``status``.
        on_crash: Told how a run has ended that did not succeed, with its last lines.

    Attributes:
        started: Set once it runs, its ``postStart`` hook is done and its startup probe succeeds.
    """

    def __init__(
        self,
        container: Container,
        *,
        directory: Path,
        netns: Path,
        make_spec: Callable[[Container], LaunchSpec],
        namespaces: Callable[[], PodNamespaces],
        address: str,
        policy: RestartPolicy,
        grace: int,
        init: bool,
        on_change: Callable[[], None],
        on_crash: Callable[[str], None],
    ) -> None:
        self.container = container
        self.status = ContainerStatus(name=container.name, sidecar=container.is_sidecar)
        self.started = asyncio.Event()
        self.spec_path = directory / f"{container.name}.json"
        self.process: Process | None = None
        self._netns = netns
        self._make_spec = make_spec
        self._namespaces = namespaces
        self._address = address
        self._policy = policy
        self._init = init
        self._on_change = on_change
        self._on_crash = on_crash
        self._last_crash = ""
        self._wrong = ""
        self._grace = grace
        self._log = ContainerLog(directory / f"{container.name}.log")

    async def run(self) -> int:
        """Runs the container, again and again if need be; the exit code of its last run."""
        backoff = Backoff(_FIRST_RESTART_SECONDS, _LONGEST_RESTART_SECONDS)
        while True:
            started = time.monotonic()
            code = await self._run_once()
            if code is not None and not restarts(self._policy, code, init=self._init):
                return code
            delay = backoff.after(time.monotonic() - started)
            if code is not None:
                self._change(
                    state=State.WAITING,
                    reason="CrashLoopBackOff",
                    message=self._wrong or f"the last exit code was {code}",
                    starts_again=datetime.now(UTC) + timedelta(seconds=delay),
                )
            await asyncio.sleep(delay)

    async def execute(self, argv: Sequence[str]) -> int:
        """Runs a command in the container, as an exec probe does; its exit code."""
        null = os.open(os.devnull, os.O_RDWR)
        try:
            command = join_command(self.spec_path, argv)
            process = Process(command, netns=self._netns, output=null, within=self._namespaces())
        finally:
            os.close(null)
        try:
            return await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await asyncio.shield(process.wait())
            raise

    async def end(self, patience: Patience) -> str:
        """Has what runs end by itself: ``preStop``, then SIGTERM; `run` must be cancelled before.

        Args:
            patience: How long it may take.

        Returns:
            What did not go as it should; empty if nothing.
        """
        process = self.process
        if process is None:
            return ""
        complaint = ""
        hook = self.container.pre_stop
        if hook is not None and patience.left and not self._init:
            complaint = await self._before_stop(hook, process, patience)
        process.terminate()
        with contextlib.suppress(TimeoutError):
            async with patience.before_kill():
                self._ended(await process.wait())
        return complaint

    async def finish(self) -> None:
        """Takes note of the end of a process that was ended from outside, and closes the log."""
        if self.process is not None:
            self._ended(await self.process.wait())
        elif self.status.state is State.WAITING and self.status.exit_code is not None:
            self._change(state=State.TERMINATED, reason="Stopped", message="", starts_again=None)
        self._log.close()

    async def _run_once(self) -> int | None:
        """Runs it once; its exit code, or None when it could not even be started."""
        try:
            self.process = process = self._start()
        except InputError as error:
            self._cannot("CreateContainerConfigError", error)
            return None
        except (TrothError, OSError, ValueError) as error:  # ValueError: a zero byte in a path
            self._cannot("RunContainerError", error)
            return None
        before = self.status.exit_code is not None
        container = self.container
        is_up = self._is_up_at_once
        self._wrong = ""
        self._change(
            state=State.RUNNING,
            starts_again=None,
            reason="",
            message="",
            pid=process.pid,
            ready=is_up and container.readiness is None,
            restarts=self.status.restarts + before,
        )
        if is_up:
            self.started.set()
        looking_after = asyncio.create_task(self._look_after(process))
        try:
            code = await process.wait()
        finally:
            looking_after.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking_after
        self._ended(code)
        if code:
            self._tell_crash(code)
        return code

    def _tell_crash(self, code: int) -> None:
        """Tell how a run has ended; nothing if it is as the one before."""
        lines = [each[:_LONGEST_LINE] for each in self._log.last_lines(_LAST_LINES)]
        how = self._wrong or how_ended(code)
        wrote = ["; it wrote at last:", *(f"\n    {line}" for line in lines)] if lines else []
        text = f"container {self.container.name}: {how}{''.join(wrote)}"
        if text != self._last_crash:
            self._last_crash = text
            self._on_crash(text)

    @property
    def _is_up_at_once(self) -> bool:
        return self.container.post_start is None and (self._init or self.container.startup is None)

    def _start(self) -> Process:
        spec = self._make_spec(self.container)
        write_spec(self.spec_path, spec)
        # Who joins now has to wait for this run, and isn't told that the one before it has ended.
        Path(note_path(self.spec_path)).unlink(missing_ok=True)
        self._log.begin()
        output = self._log.open_pipe()
        try:
            return Process(
                launch_command(self.spec_path),
                netns=self._netns,
                output=output,
                within=self._namespaces(),
            )
        finally:
            os.close(output)

    async def _look_after(self, process: Process) -> None:
        """See to what goes on beside a process: ``postStart``, then its probes."""
        began = time.monotonic()
        container = self.container
        if container.post_start is not None:
            wrong = await self._run_hook(container.post_start)
            if wrong:
                self._wrong = f"its postStart hook failed: {wrong}"
                process.kill()
                return
        if container.startup is not None and not self._init:
            wrong = await self._start_up(container.startup, began)
            if wrong:
                await self._put_down(process, container.startup, f"startup probe failed: {wrong}")
                return
        if not self._is_up_at_once:
            self.started.set()
            self._change(ready=container.readiness is None, message="")
        await asyncio.gather(self._watch_readiness(), self._watch_life(process))

    async def _start_up(self, probe: Probe, began: float) -> str:
        """Wait until the startup probe succeeds; what was wrong if it doesn't in time."""
        history = ProbeHistory(probe, began)
        while True:
            await asyncio.sleep(history.next_at - time.monotonic())
            wrong = await self._ask(probe)
            history.observe(ok=not wrong, now=time.monotonic())
            if history.ready or (wrong and time.monotonic() >= history.lost_at):
                return wrong
            self._change(message=f"has not started up: {wrong}" if wrong else "")

    async def _watch_life(self, process: Process) -> None:
        """Put down a process whose liveness probe fails too often."""
        probe = self.container.liveness
        if probe is None or self._init:
            return
        history = ProbeHistory(probe, time.monotonic(), alive=True)
        wrong = ""
        while history.ready:
            await asyncio.sleep(history.next_at - time.monotonic())
            wrong = await self._ask(probe)
            history.observe(ok=not wrong, now=time.monotonic())
        await self._put_down(process, probe, f"liveness probe failed: {wrong}")

    async def _put_down(self, process: Process, probe: Probe, why: str) -> None:
        """End a process that a probe has found dead; its pod's rules say what comes then."""
        self._wrong = f"its {why}"
        self._change(message=self._wrong)
        patience = Patience(self._grace if probe.grace is None else probe.grace)
        if self.container.pre_stop is not None and patience.left:
            await self._before_stop(self.container.pre_stop, process, patience)
        process.terminate()
        with contextlib.suppress(TimeoutError):
            async with patience.before_kill():
                await process.wait()
        process.kill()

    async def _before_stop(self, hook: Hook, process: Process, patience: Patience) -> str:
        doing = asyncio.create_task(self._run_hook(hook))
        ended = asyncio.create_task(process.wait())
        try:
            async with patience.before_signal():
                await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
            wrong = doing.result() if doing.done() else ""
        except TimeoutError:
            wrong = (
                "it was cut short" if patience.is_cut else "it takes longer than the grace period"
            )
        finally:
            doing.cancel()
            ended.cancel()
            await asyncio.gather(doing, ended, return_exceptions=True)
        return f"its preStop hook failed: {wrong}" if wrong else ""

    async def _run_hook(self, hook: Hook) -> str:
        return await run_hook(hook, netns=self._netns, address=self._address, execute=self.execute)

    async def _ask(self, probe: Probe) -> str:
        return await ask(probe, netns=self._netns, address=self._address, execute=self.execute)

    async def _watch_readiness(self) -> None:
        probe = self.container.readiness
        if probe is None or self._init:
            return
        readiness = ProbeHistory(probe, time.monotonic())
        while True:
            await asyncio.sleep(readiness.next_at - time.monotonic())
            wrong = await self._ask(probe)
            readiness.observe(ok=not wrong, now=time.monotonic())
            message = f"not ready: {wrong}" if wrong else ""
            if (self.status.ready, self.status.message) != (readiness.ready, message):
                self._change(ready=readiness.ready, message=message)

    def _ended(self, code: int) -> None:
        self.process = None
        self._change(
            state=State.TERMINATED,
            reason="Error" if code else "Completed",
            message=self._wrong,
            exit_code=code,
            pid=0,
            ready=False,
        )

    def _cannot(self, reason: str, error: Exception) -> None:
        self._change(state=State.WAITING, reason=reason, message=str(error))

    def _change(self, **fields: object) -> None:
        self.status = msgspec.structs.replace(self.status, **fields)
        self._on_change()


def write_spec(path: Path, spec: LaunchSpec) -> None:
    """Writes a launch spec, 0600 from the moment it exists and never seen half-written."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(spec, file)
    new.replace(path)
