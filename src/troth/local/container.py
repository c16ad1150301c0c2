"""One container of a local pod: started, hooked, probed, and started again by its pod's rules."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from troth.agent.netns import socket_in
from troth.control.messages import ContainerStatus, State
from troth.errors import InputError, TrothError
from troth.local.launch import join_command, launch_command
from troth.local.processes import ContainerLog, Process
from troth.manifests.workloads import RestartPolicy
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from troth.local.launch import LaunchSpec
    from troth.local.processes import PodNamespaces
    from troth.manifests.workloads import Container, Hook, HttpGet, Probe

_LONGEST_STATUS_LINE = 1024
_FIRST_RESTART_SECONDS, _LONGEST_RESTART_SECONDS = 1.0, 60.0
"""Less than the kubelet's 10 s to 5 min, because somebody is waiting at a terminal."""

_FIRST_PERIOD = 0.1
"""Seconds; doubled after each failure until it is the probe's own period."""

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
        init: Whether it is an init container that has to end before the next one is started.
        on_change: Called after each change of ``status``.

    Attributes:
        started: Set once it runs and its ``postStart`` hook is done.
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
        init: bool,
        on_change: Callable[[], None],
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
        self._failed_hook = ""
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
                    message=self._failed_hook or f"the last exit code was {code}",
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
        probe = self.container.readiness
        self._failed_hook = ""
        self._change(
            state=State.RUNNING,
            starts_again=None,
            reason="",
            message="",
            pid=process.pid,
            ready=probe is None and self.container.post_start is None,
            restarts=self.status.restarts + before,
        )
        if self.container.post_start is None:
            self.started.set()
        looking_after = asyncio.create_task(self._look_after(process))
        try:
            code = await process.wait()
        finally:
            looking_after.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking_after
        self._ended(code)
        return code

    def _start(self) -> Process:
        spec = self._make_spec(self.container)
        write_spec(self.spec_path, spec)
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
        """See to what goes on beside a process: ``postStart``, then its readiness."""
        hook = self.container.post_start
        if hook is not None:
            wrong = await self._run_hook(hook)
            if wrong:
                self._failed_hook = f"its postStart hook failed: {wrong}"
                process.kill()
                return
            self.started.set()
            if self.container.readiness is None:
                self._change(ready=True)
        await self._probe()

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

    async def _probe(self) -> None:
        probe = self.container.readiness
        if probe is None or self._init:
            return
        readiness = ProbeHistory(probe, time.monotonic())
        while True:
            await asyncio.sleep(readiness.next_at - time.monotonic())
            wrong = await ask(probe, netns=self._netns, address=self._address, execute=self.execute)
            readiness.observe(ok=not wrong, now=time.monotonic())
            message = f"not ready: {wrong}" if wrong else ""
            if (self.status.ready, self.status.message) != (readiness.ready, message):
                self._change(ready=readiness.ready, message=message)

    def _ended(self, code: int) -> None:
        self.process = None
        self._change(
            state=State.TERMINATED,
            reason="Error" if code else "Completed",
            message="",
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


class ProbeHistory:
    """Whether a container counts as ready, by the answers to its probe. Times in seconds.

    One that has never been ready is asked more often at first, as the kubelet may do: an app that
    needs half a second to start shall not wait for the next round.

    Args:
        probe: The thresholds and times; None means ready from the start.
        started: When the container was started.
    """

    def __init__(self, probe: Probe | None, started: float) -> None:
        self._probe = probe
        self._row = 0
        self._last: bool | None = None
        self._period = _FIRST_PERIOD
        self.ready = probe is None
        self.next_at = started + (probe.initial_delay if probe else 0)

    def observe(self, *, ok: bool, now: float) -> bool:
        """Takes the answer to a probe that ended ``now``; whether ``ready`` has changed by it."""
        if self._probe is None:
            return False
        self._row = self._row + 1 if ok is self._last else 1
        self._last = ok
        self._period = self._probe.period if ok else min(2 * self._period, self._probe.period)
        self.next_at = now + self._period
        threshold = self._probe.success_threshold if ok else self._probe.failure_threshold
        if ok is self.ready or self._row < threshold:
            return False
        self.ready = ok
        return True


async def ask(
    probe: Probe,
    *,
    netns: Path,
    address: str,
    execute: Callable[[tuple[str, ...]], Awaitable[int]],
) -> str:
    """Probes once; empty when the answer is yes, else what was wrong.

    Args:
        probe: What to ask.
        netns: The pod's network namespace.
        address: The pod's, which is where ports are tried.
        execute: Runs a command in the container and gives its exit code.
    """
    try:
        async with asyncio.timeout(probe.timeout):
            if probe.command is not None:
                code = await execute(probe.command)
                return f"{probe.command[0]} ended with exit code {code}" if code else ""
            if probe.http_get is not None:
                status = await http_status(probe.http_get, netns, address)
                if status is None:
                    return "the answer is not HTTP"
                return "" if 200 <= status < 400 else f"status {status}"  # noqa: PLR2004 - the kubelet's range
            if probe.tcp_port is not None:
                (await _connect(netns, address, probe.tcp_port)).close()
            return ""
    except TimeoutError:
        return f"no answer within {probe.timeout} s"
    except (OSError, TrothError, asyncio.IncompleteReadError, ValueError) as error:
        return str(error)


async def http_status(get: HttpGet, netns: Path, address: str) -> int | None:
    """The status of the answer to a request from inside the pod; None when that isn't HTTP.

    Raises:
        OSError: There is no connection, or it ended early.
        asyncio.IncompleteReadError: It ended amid the status line.
        ValueError: The request would not be one.
    """
    connection = await _connect(netns, address, get.port)
    encrypted = get.scheme == "HTTPS"
    try:
        reader, writer = await asyncio.open_connection(
            sock=connection,
            limit=_LONGEST_STATUS_LINE,
            ssl=_unverified() if encrypted else None,
            server_hostname=address if encrypted else None,
        )
    except BaseException:
        connection.close()
        raise
    try:
        writer.write(_request(get, address))
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        return None
    finally:
        writer.transport.abort()
    return status_of(line)


def status_of(line: bytes) -> int | None:
    """The code of an HTTP/1 status line (RFC 9112 section 4), None when it is no such line."""
    match line.split(maxsplit=2):
        case [version, code, *_] if version.startswith(b"HTTP/1.") and len(code) == len(b"200"):
            return int(code) if code.isdigit() else None
        case _:
            return None


def _request(get: HttpGet, address: str) -> bytes:
    host = f"[{address}]:{get.port}" if ":" in address else f"{address}:{get.port}"
    headers = {"Host": host, "User-Agent": "troth-probe", "Accept": "*/*", "Connection": "close"}
    # As the kubelet has it: a header of the manifest replaces ours of the same name.
    given = {name.title() for name, _ in get.headers}
    pairs = [(name, value) for name, value in headers.items() if name not in given]
    lines = [f"{name}: {value}" for name, value in (*pairs, *get.headers)]
    path = get.path if get.path.startswith("/") else f"/{get.path}"
    if any(character in "\r\n" for line in (path, *lines) for character in line):
        raise ValueError("a line end in the probe's path or headers")
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


async def _connect(netns: Path, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket_in(netns, family)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except OSError as error:
        connection.close()
        raise OSError(f"port {port}: {os.strerror(error.errno or 0)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _unverified() -> ssl.SSLContext:
    """Takes any certificate, as the kubelet does: the question is whether the app answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def run_hook(
    hook: Hook,
    *,
    netns: Path,
    address: str,
    execute: Callable[[tuple[str, ...]], Awaitable[int]],
) -> str:
    """Run a hook to its end, however long that takes; empty if it worked, else what was wrong.

    Args:
        hook: What to do. Any answer to an ``httpGet`` will do, whatever its status.
        netns: The pod's network namespace.
        address: The pod's, which is where ports are asked.
        execute: Runs a command in the container and gives its exit code.
    """
    try:
        if hook.command is not None:
            code = await execute(hook.command)
            return f"{hook.command[0]} ended with exit code {code}" if code else ""
        if hook.http_get is not None:
            await http_status(hook.http_get, netns, address)
            return ""
        await asyncio.sleep(hook.sleep or 0)
    except (OSError, TrothError, asyncio.IncompleteReadError, ValueError) as error:
        return str(error)
    return ""
