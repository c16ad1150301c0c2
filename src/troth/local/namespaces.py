"""What the containers of a pod share besides its network: PID, IPC and UTS namespaces."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
from typing import TYPE_CHECKING

from troth.agent.netns import call_in
from troth.errors import EnvironmentLackError, PeerError
from troth.local.launch import POD_NAMESPACES
from troth.local.processes import ended

if TYPE_CHECKING:
    from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_KEEPER = ("env", "--ignore-signal=CHLD", "sleep", "infinity")
"""What does nothing but exist, as the first process of the pod's PID namespace. Ignored, SIGCHLD
has the kernel reap the orphans that become its children."""


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


def _check(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
