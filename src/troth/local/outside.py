"""A local mesh seen from outside its namespaces: start it, find it, enter it, stop it.

The mesh gets mount, network and PID namespaces of its own (and a user namespace when a plain user
starts it). All that it makes lives there: the bridge, pods, rules, processes. When its first
process ends, the kernel removes all of that. What is left for us to remove is the state directory
and, if the mesh had an uplink, its rules on the host.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.control.protocol import call
from troth.errors import EnvironmentLackError, PeerError, TrothError
from troth.local.init import ENDING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from troth.control.state_dir import Settings, StateDirectory

_TOOLS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "nft": "nftables",
}
_ADMIN_CAPABILITIES = (1 << 12) | (1 << 21)  # CAP_NET_ADMIN, CAP_SYS_ADMIN
_REASON = re.compile(r' level=error .*?reason=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>\S+))')
_START_SECONDS = 30
_STOP_SECONDS = 20
_POLL_SECONDS = 0.01


def is_privileged() -> bool:
    """Whether we may make namespaces without a user namespace around them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16) & _ADMIN_CAPABILITIES == _ADMIN_CAPABILITIES
    return False


class MeshProcess(msgspec.Struct, frozen=True):
    """The first process of a mesh; its start time tells it from a later one of the same number."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> MeshProcess | None:
        """The process with this number, if there is one."""
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        return cls(pid, int(status.rpartition(")")[2].split()[19]))

    @property
    def alive(self) -> bool:
        """Whether it still is that process."""
        return MeshProcess.of(self.pid) == self


class Ending(msgspec.Struct, frozen=True):
    """What a mesh waits for before it ends.

    Attributes:
        pods: Those that have not ended yet, ``NAMESPACE/NAME``.
        seconds: The time within which they will have ended.
    """

    pods: tuple[str, ...]
    seconds: float


class Outside:
    """The mesh of one state directory, as the commands outside of it see it."""

    def __init__(self, state: StateDirectory) -> None:
        self.state = state

    def process(self) -> MeshProcess | None:
        """The running mesh's first process, if one runs."""
        try:
            process = msgspec.json.decode(self.state.pid.read_bytes(), type=MeshProcess)
        except (OSError, msgspec.DecodeError):
            return None
        return process if process.alive else None

    def start(
        self, settings: Settings, *, detach: bool, manifests: Sequence[bytes] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a mesh; it is up when `progress` ends.

        Args:
            settings: What to run.
            detach: Let it outlive us. Otherwise it ends when the returned process's ``stdin``
                is closed, so also when we are killed.
            manifests: More of them than the settings name, which are no files.

        Raises:
            EnvironmentLackError: A tool or a permission is missing.
            PeerError: A mesh is running already.
        """
        _check_tools()
        self.state.prepare()
        lock = self.state.try_lock()
        if lock is None:
            raise PeerError(
                "troth",
                f"a mesh is running already (state in {self.state.path})",
                "stop it with: troth down",
            )
        mesh = None
        try:
            try:
                self._remove_remains()
                settings = self._with_files(settings, manifests)
                self.state.write_private(self.state.settings, msgspec.json.encode(settings))
                with _signals_held():  # until we know the mesh that has started
                    mesh = self._spawn(lock, detach=detach)
            finally:
                os.close(lock)
            first = self._first_process(mesh)
            self.state.write_private(self.state.pid, msgspec.json.encode(first))
            if settings.uplink:
                with _signals_held():  # they would break pyroute2's event loop
                    self._connect_uplink(first)
        except BaseException:
            if mesh is not None:
                _kill_group(mesh)
            self.stop(grace=0)
            raise
        return mesh

    def progress(self, *, seconds: float = _START_SECONDS) -> Iterator[tuple[str, ...]]:
        """Yields what the mesh still waits for, until it is ready.

        Args:
            seconds: How long to wait.

        Raises:
            PeerError: It ended before it was ready.
            TimeoutError: It still runs, but isn't ready.
        """
        until = time.monotonic() + seconds
        deadline = time.monotonic() + _START_SECONDS
        while not self.state.control.exists():
            if self.process() is None or time.monotonic() > deadline:
                raise self._ended_early()
            time.sleep(_POLL_SECONDS)
        for line in call(self.state.control, "progress", until):
            if line["ready"]:
                return
            yield tuple(line["waiting_for"])
        raise self._ended_early()

    def ending(self, grace: float | None = None) -> Iterator[Ending]:
        """Have the mesh end, and follow how it does; call `stop` afterwards in any case.

        Args:
            grace: Seconds that pods may take, if less than their own termination grace periods.

        Yields:
            What it waits for, now and after each change; nothing if no mesh runs.
        """
        seconds = self._ask_to_stop(grace)
        if seconds is None:
            return
        until = time.monotonic() + seconds + _STOP_SECONDS
        with contextlib.suppress(PeerError, TimeoutError):  # it has ended, or `stop` ends it
            for line in call(self.state.control, "ending", until):
                yield Ending(tuple(line["waiting_for"]), line["seconds"])

    def stop(self, grace: float | None = None) -> bool:
        """Stop the mesh and remove what is left of it; False if there was nothing.

        This also removes the remains of a mesh that was killed. The argument is that of `ending`.
        """
        process = self.process()
        if process is not None:
            seconds = self._ask_to_stop(grace)
            if seconds is None or not _wait_gone(process, seconds + _STOP_SECONDS):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                _wait_gone(process, _STOP_SECONDS)
        if not self.state.path.exists():
            return process is not None
        with contextlib.suppress(FileNotFoundError):  # another command has removed it meanwhile
            self._remove()
        return True

    def enter_command(self) -> list[str]:
        """What to put before a command to run it inside the mesh's namespaces.

        Raises:
            PeerError: No mesh is running.
        """
        process = self.process()
        if process is None:
            raise PeerError("troth", "no mesh is running", "start one with: troth up -d PATH")
        user = [] if is_privileged() else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={process.pid}", *user, "--mount", "--net", "--pid", "--"]

    def _ask_to_stop(self, grace: float | None) -> float | None:
        """Seconds that the mesh may take; None if it is still starting and doesn't listen yet."""
        try:
            for answer in call(self.state.control, "stop", grace=grace):
                return float(answer["seconds"])
        except PeerError:
            return None
        return None

    def _spawn(self, lock: int, *, detach: bool) -> subprocess.Popen[bytes]:
        log = os.open(self.state.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                [*_unshare_command(), sys.executable, "-m", "troth.local.init", self.state.path],
                stdin=subprocess.DEVNULL if detach else subprocess.PIPE,
                stdout=log,
                stderr=log,
                # The mesh holds the lock for as long as it lives.
                pass_fds=[lock],
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(log)

    def _with_files(self, settings: Settings, manifests: Sequence[bytes]) -> Settings:
        """The settings with files for manifests that are none."""
        paths = [*settings.paths]
        for number, content in enumerate(manifests, 1):
            path = self.state.path / f"given-{number}.yaml"
            self.state.write_private(path, content)
            paths.append(str(path))
        return msgspec.structs.replace(settings, paths=tuple(paths))

    def _connect_uplink(self, first: MeshProcess) -> None:
        from troth.local import uplink  # noqa: PLC0415 - pyroute2 is slow, and only root needs it

        try:
            link = uplink.link(first.pid)
            self.state.write_private(self.state.uplink, msgspec.json.encode(link))
            uplink.configure(link, first.pid)
        except TrothError as error:
            if first.alive:
                raise
            raise self._ended_early() from error

    def _ended_early(self) -> PeerError:
        return PeerError("troth", "the mesh ended before it was ready", self._last_words())

    def _remove(self) -> None:
        self.state.prepare()
        lock = self._lock_within(_STOP_SECONDS)
        try:
            self._remove_remains()
            self.state.remove()
        finally:
            os.close(lock)

    def _lock_within(self, seconds: float) -> int:
        # The mesh's last processes hold it for a moment longer than its first.
        deadline = time.monotonic() + seconds
        while (lock := self.state.try_lock()) is None:
            if time.monotonic() > deadline:
                raise PeerError(
                    "troth", "the mesh is being started or stopped by another command", "try again"
                )
            time.sleep(_POLL_SECONDS)
        return lock

    def _remove_remains(self) -> None:
        if is_privileged() and self.state.uplink.exists():
            from troth.local import uplink  # noqa: PLC0415 - as above

            with contextlib.suppress(msgspec.DecodeError):
                link = msgspec.json.decode(self.state.uplink.read_bytes(), type=uplink.Uplink)
                uplink.remove(link)
        self.state.clear()

    def _first_process(self, unshare: subprocess.Popen[bytes]) -> MeshProcess:
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
        deadline = time.monotonic() + _START_SECONDS
        while unshare.poll() is None and time.monotonic() < deadline:
            for child in children.read_text().split():
                # Until it has become Python, unshare is still setting it up.
                first = MeshProcess.of(int(child))
                if first and _argument_zero(first.pid) == sys.executable:
                    return first
            time.sleep(_POLL_SECONDS)
        raise EnvironmentLackError(
            f"the kernel refuses the mesh its own namespaces: {self._last_words()}",
            "allow unprivileged user namespaces (sysctl user.max_user_namespaces, "
            "kernel.apparmor_restrict_unprivileged_userns), or run as root",
        )

    def _last_words(self) -> str:
        try:
            lines = self.state.log.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return last_words(lines)


def _kill_group(mesh: subprocess.Popen[bytes]) -> None:
    """Kill ``unshare`` and its child, and wait.

    ``unshare`` leads the group. Killed alone, before it has told the kernel that its child is to
    die with it, it would leave a mesh that nobody knows of and that holds the lock.
    """
    with mesh, contextlib.suppress(ProcessLookupError):  # waits, and closes its pipe
        os.killpg(mesh.pid, signal.SIGKILL)


def last_words(lines: Sequence[str]) -> str:
    """Why a mesh has ended: the reason of the last error in its log."""
    for line in reversed(lines):
        if match := _REASON.search(line):
            return re.sub(r"\\(.)", r"\1", match["quoted"] or match["plain"])
    # Otherwise it is a traceback, or another program's output: the last line says most.
    return lines[-1].strip() if lines else "it left no log"


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back the signals that would end us until the block is done.

    They are caught and not blocked, since a child would inherit a blocked signal.
    """
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda arriving, _frame: arrived.append(arriving))
        for number in ENDING
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)


def _unshare_command() -> list[str]:
    user = [] if is_privileged() else ["--user", "--map-root-user"]
    return [
        "unshare",
        *user,
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
    ]


def _argument_zero(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
    except OSError:
        return ""


def _check_tools() -> None:
    missing = sorted({package for tool, package in _TOOLS.items() if not shutil.which(tool)})
    if missing:
        raise EnvironmentLackError(
            f"missing: {', '.join(t for t in _TOOLS if not shutil.which(t))}",
            f"install with: apt-get install {' '.join(missing)}",
        )


def _wait_gone(process: MeshProcess, seconds: float) -> bool:
    """Wait until a process that need not be our child has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if not process.alive:
            return True
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
