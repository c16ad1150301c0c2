"""Keeps one Envoy running: starts it, passes its log on, starts it again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import structlog

from troth.envoy.backoff import Backoff
from troth.envoy.command import EnvoyOptions, command, find_envoy, parse_log_line
from troth.envoy.lines import LineBuffer
from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable

__all__ = ["EnvoyOptions", "EnvoyProcess", "find_envoy"]

_MAX_LOG_LINE = 16 * 1024
_CHUNK = 16 * 1024

_log = structlog.get_logger("troth.envoy")


class EnvoyProcess:
    """One Envoy, supervised.

    It never outlives this process: the kernel kills it when the thread that called `start` ends.

    Attributes:
        restarts: How often it had to be started again.
        last_exit: How it last ended: its exit code, or a signal's negated number.
    """

    def __init__(
        self,
        options: EnvoyOptions,
        *,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare to run Envoy; the last three arguments are for tests."""
        self._options = options
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._sleep = sleep
        self._process: Process | None = None
        self._pidfd: int | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.restarts = 0
        self.last_exit: int | None = None

    @property
    def pid(self) -> int | None:
        """The running Envoy's process ID, or None between two runs."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start Envoy and from then on keep it running. Returns before Envoy is ready.

        Raises:
            EnvironmentLackError: It can't be started on this machine.
        """
        if self._supervisor is not None:
            raise RuntimeError("this Envoy was started before")
        argv = command(self._options)
        started = self._clock()
        process = await self._spawn(argv)
        self._supervisor = asyncio.create_task(self._supervise(argv, process, started))

    async def stop(self, deadline: float = 5.0) -> None:
        """End Envoy with SIGTERM, and with SIGKILL after ``deadline`` seconds; start it no more."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervisor
        process = self._process
        if process is None:
            return
        output = asyncio.create_task(_drain(process))
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), deadline)
        except TimeoutError:
            _log.warning("Envoy did not end in time and is killed", seconds=deadline)
            self._signal(signal.SIGKILL)
            await process.wait()
        await output
        self._ended(process)

    async def _supervise(self, argv: tuple[str, ...], process: Process, started: float) -> None:
        while True:
            await _drain(process)
            code = await process.wait()
            self._ended(process)
            delay = self._backoff.delay(self._clock() - started)
            _log.error("Envoy ended and is started again", exit_code=code, delay_s=round(delay, 2))
            await self._sleep(delay)
            while True:
                started = self._clock()
                try:
                    process = await self._spawn(argv)
                    break
                except EnvironmentLackError as error:
                    delay = self._backoff.delay(0)
                    _log.error("Envoy can't be started", error=str(error), delay_s=round(delay, 2))
                    await self._sleep(delay)
            self.restarts += 1

    async def _spawn(self, argv: tuple[str, ...]) -> Process:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={},  # Envoy needs nothing of ours
            )
        except OSError as error:
            raise EnvironmentLackError(
                f"cannot start {argv[0]}: {error.strerror}", "see that it is installed"
            ) from error
        self._process = process
        # A handle on this very child: its number may be another's by the time we signal.
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(process.pid)
        return process

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _ended(self, process: Process) -> None:
        self.last_exit = process.returncode
        self._process = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


async def _drain(process: Process) -> None:
    """Pass the output on to the log until the process closes it."""
    if process.stdout is None:
        return
    lines = LineBuffer(_MAX_LOG_LINE)
    while data := await process.stdout.read(_CHUNK):
        for line in lines.feed(data):
            entry = parse_log_line(line)
            log = getattr(_log, entry.level)
            log(entry.text, source="envoy", component=entry.component)
