"""The processes of a pod: started inside its network namespace, found and signalled by it.

Signals go through pidfds, and only to a process that is seen in the namespace after its pidfd was
opened, so a process id that was given to somebody else meanwhile is never hit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from troth.agent.netns import call_in
from troth.errors import PeerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from troth.local.namespaces import PodNamespaces

_PROC = Path("/proc")


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
