"""Private Unix sockets, and the identity of their peers.

The kernel identifies a peer (SO_PEERCRED of unix(7)).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
_DESCRIPTORS = Path("/proc/self/fd")


class Peer(msgspec.Struct, frozen=True):
    """The process that connected.

    Attributes:
        pid: Its process ID in our PID namespace; 0 if it is outside that.
        uid: Its effective user ID in our user namespace.
    """

    pid: int
    uid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """The process that opened this connection; it may have passed it on since."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(raw)
        return cls(pid, uid)


def is_our_user(peer: Peer) -> bool:
    """Whether it runs as the same user as we do."""
    return peer.uid == os.geteuid()


def shut_out(path: Path, admits: Callable[[Peer], bool]) -> int:
    """Close connections of peers that ``admits`` refuses, on a listener of ours at ``path``.

    This is for a server without a hook at accept: gRPC accepts in C. Accepted connections are among
    this process's descriptors, so call this before anything is sent on a new one.

    Returns:
        How many were closed.
    """
    refused = 0
    for connection in _accepted_at(path):
        with connection:
            if not admits(Peer.of(connection)):
                connection.shutdown(socket.SHUT_RDWR)
                refused += 1
    return refused


def _accepted_at(path: Path) -> Iterator[socket.socket]:
    """Copies of this process's connections to its own listener at ``path``."""
    for entry in list(_DESCRIPTORS.iterdir()):
        try:
            if not stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # it was closed meanwhile
            continue
        try:
            accepted = copy.family == socket.AF_UNIX and copy.getsockname() == str(path)
            accepted = accepted and not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            accepted = False
        if accepted:
            yield copy
        else:
            copy.close()


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Create files as 0600 in this context.

    The umask belongs to the process: nothing else may run meanwhile, so there must be no ``await``.
    """
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def private_listener(path: Path) -> socket.socket:
    """A socket of mode 0600 that listens at ``path``.

    Raises:
        OSError: It can't listen there.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        with private_umask():
            listener.bind(str(path))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def remove_stale(path: Path) -> None:
    """Remove a socket of ours that nobody listens on any more; keep anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
