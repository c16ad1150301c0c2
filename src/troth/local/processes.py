"""The processes of a pod, the namespaces that they are born in, and the files of what they print.

Signals go through pidfds, and only to a process that is seen in the pod's network namespace after
its pidfd was opened, so a process id that was given to somebody else meanwhile is never hit.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from troth.agent.netns import call_in
from troth.errors import EnvironmentLackError, PeerError
from troth.local.launch import POD_NAMESPACES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOG_LIMIT = 8 * 2**20
"""Bytes after which a log is moved aside to ``NAME.log.1``, which replaces the one before it."""

_libc = ctypes.CDLL(None, use_errno=True)
_PROC = Path("/proc")
_CHUNK = 65536
_MOST_LEFT = 2**20  # bytes; what a pipe holds at most, unless root has raised it
_KEEPER = ("env", "--ignore-signal=CHLD", "sleep", "infinity")
"""What does nothing but exist, as the first process of the pod's PID namespace. Ignored, SIGCHLD
has the kernel reap the orphans that become its children."""


class Process:
    """A child process that leads a session of its own inside a pod's network namespace.

    Args:
        command: What to run, with an empty environment.
        netns: The path of the namespace that it is born in.
        output: A file descriptor for its standard output and error.
        within: The pod's other namespaces, to be born in them, too.

    Raises:
        PeerError: There is no namespace at ``netns``.
        OSError: ``command`` cannot be run.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        netns: Path,
        output: int,
        within: PodNamespaces | None = None,
    ) -> None:
        def start() -> subprocess.Popen[bytes]:
            if within is not None:
                within.enter()
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={},
                cwd="/",
                start_new_session=True,
            )

        # Not asyncio's own: a process that were in the node's namespace even for a moment could
        # be missed when the pod is stopped.
        self._child = call_in(netns, start)
        self.pid = self._child.pid

    @property
    def ended(self) -> bool:
        """Whether `wait` has seen its end."""
        return self._child.returncode is not None

    async def wait(self) -> int:
        """Its exit code, or 128 + N when signal N ended it."""
        if not self.ended:
            await _readable(os.pidfd_open(self.pid))
        code = self._child.wait()
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Asks it to end (SIGTERM), and nobody else: it knows what its children have to do first.

        No-op when it has ended.
        """
        if not self.ended:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kills it and all of its process group; no-op when it has ended."""
        if not self.ended:
            os.killpg(self.pid, signal.SIGKILL)


def members(namespace: int) -> Iterator[int]:
    """The processes whose every thread is in the network namespace with this inode number.

    Every thread, because one that is elsewhere for a moment (Envoy opening a listener in a pod)
    does not make its process a member.
    """
    for entry in os.scandir(_PROC):
        if entry.name.isdigit() and _is_member(int(entry.name), namespace):
            yield int(entry.name)


async def end_all(namespace: int, *, spare: int = 0, patience: float = 5) -> None:
    """Kills every member of the namespace, and those they start meanwhile, until there is none.

    Args:
        namespace: The inode number of a network namespace.
        spare: A member to leave alone.
        patience: Seconds to wait for that.

    Raises:
        PeerError: Some still live after ``patience`` seconds: the kernel holds them.
    """
    try:
        async with asyncio.timeout(patience):
            while pids := [pid for pid in members(namespace) if pid != spare]:
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        await _readable(_send(pid, namespace, signal.SIGKILL))
    except TimeoutError as error:
        rest = ", ".join(map(str, members(namespace)))
        raise PeerError(
            f"process {rest}", "does not end after SIGKILL", "see its state in /proc/PID/stack"
        ) from error


def _send(pid: int, namespace: int, number: signal.Signals) -> int:
    """Signals ``pid`` if it is a member; its pidfd, which is the caller's to close."""
    descriptor = os.pidfd_open(pid)
    try:
        if not _is_member(pid, namespace):
            raise ProcessLookupError  # noqa: TRY301 - as if it had ended
        signal.pidfd_send_signal(descriptor, number)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_member(pid: int, namespace: int) -> bool:
    inodes: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process has just ended
        for task in (_PROC / str(pid) / "task").iterdir():
            # One thread that has just ended, or may not be looked at, says nothing of the others.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                inodes.add((task / "ns/net").stat().st_ino)
    return inodes == {namespace}


async def ended(pid: int) -> None:
    """Wait until a child of ours has ended; it is still to be waited for."""
    await _readable(os.pidfd_open(pid))


async def _readable(descriptor: int) -> None:
    """Waits until ``descriptor`` is readable (a pidfd: its process has ended) and closes it."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def finish() -> None:
        loop.remove_reader(descriptor)
        done.set_result(None)

    try:
        loop.add_reader(descriptor, finish)
        await done
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


class PodNamespaces:
    """The namespaces of one pod; when they are closed, the kernel ends every process in them.

    So what runs in a pod neither sees nor reaches the processes of another, nor the mesh's own.

    Attributes:
        pid: The process that keeps them.
    """

    def __init__(self, netns: Path, hostname: str) -> None:
        """Make them.

        Args:
            netns: The path of the pod's network namespace.
            hostname: The pod's.

        Raises:
            PeerError: There is no network namespace at ``netns``.
            EnvironmentLackError: The kernel refuses, or there is no ``sleep``.
        """

        def start() -> subprocess.Popen[bytes]:
            _check(_libc.unshare(POD_NAMESPACES))
            socket.sethostname(hostname)
            return subprocess.Popen(
                _KEEPER,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                cwd="/",
                start_new_session=True,
            )

        try:
            self._keeper = call_in(netns, start)
        except OSError as error:
            raise EnvironmentLackError(
                f"cannot make the namespaces of a pod: {error.strerror}",
                "see that the sysctls user.max_pid_namespaces and the like aren't used up",
            ) from error
        self.pid = self._keeper.pid

    def enter(self) -> None:
        """Have what this thread starts from now on be in them; for a thread that then ends.

        Raises:
            OSError: They have ended.
        """
        descriptor = os.pidfd_open(self.pid)
        try:
            _check(_libc.setns(descriptor, POD_NAMESPACES))
        finally:
            os.close(descriptor)

    async def close(self, *, patience: float = 5) -> None:
        """End every process in them.

        Raises:
            PeerError: One still lives after ``patience`` seconds: the kernel holds it.
        """
        self._keeper.kill()
        try:
            async with asyncio.timeout(patience):
                await ended(self.pid)
        except TimeoutError as error:
            raise PeerError("a process of the pod", "does not end after SIGKILL") from error
        self._keeper.wait()


class ContainerLog:
    """Appends the output of a container's processes to a file.

    That of the run before the last `begin` is in ``NAME.previous.log``.

    Args:
        path: ``NAME.log``, 0600 from the moment it exists; the directory must be there.
        limit: Bytes after which the file is moved aside.
    """

    def __init__(self, path: Path, *, limit: int = LOG_LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._file = -1
        self._size = 0
        self._pipes: set[int] = set()

    def open_pipe(self) -> int:
        """The end of a new pipe to this log for a process to write to; close it after the start.

        The log goes on reading until every process that has it is gone, or `close` is called.
        """
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._pipes.add(reader)
        asyncio.get_running_loop().add_reader(reader, self._drain, reader)
        return writer

    def begin(self) -> None:
        """Have the output of another run begin."""
        if self._path.exists():
            self._close_file()
            self._path.replace(self._path.with_suffix(".previous.log"))

    def write(self, data: bytes) -> None:
        """Appends ``data``; what a full disk does not take is lost, and the container goes on."""
        with contextlib.suppress(OSError):
            if self._file == -1 or self._size + len(data) > self._limit:
                self._next_file()
            self._size += os.write(self._file, data)

    def last_lines(self, count: int) -> tuple[str, ...]:
        """The last so many lines of this run, with what is still in the pipes."""
        self._take_rest()
        try:
            with self._path.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _CHUNK, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ()
        return tuple(lines[-count:])

    def close(self) -> None:
        """Takes what is still in the pipes and closes everything."""
        self._take_rest()
        for reader in tuple(self._pipes):
            self._close_pipe(reader)
        self._close_file()

    def _take_rest(self) -> None:
        for reader in tuple(self._pipes):
            for _ in range(_MOST_LEFT // _CHUNK):  # a pipe that is still written to has no end
                if not self._drain(reader):
                    break

    def _drain(self, reader: int) -> bool:
        """Reads once; whether there may be more."""
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.write(data)
        else:
            self._close_pipe(reader)
        return bool(data)

    def _close_pipe(self, reader: int) -> None:
        if reader in self._pipes:
            self._pipes.discard(reader)
            asyncio.get_running_loop().remove_reader(reader)
            os.close(reader)

    def _close_file(self) -> None:
        if self._file != -1:
            os.close(self._file)
            self._file = -1

    def _next_file(self) -> None:
        if self._file != -1:
            self._close_file()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size


def _check(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
