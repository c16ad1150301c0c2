"""Unix sockets that are ours alone, and who is at their other end.

Who that is the kernel says (SO_PEERCRED of unix(7)).
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
        pid: Its number in our PID namespace; 0 if it is outside of that.
        uid: Its effective user, as our user namespace knows it.
    """

    pid: int
    uid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """Who opened this connection; it may have passed it on since."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(raw)
        return cls(pid, uid)


def is_our_user(peer: Peer) -> bool:
    """Whether it runs as the same user as we do."""
    return peer.uid == os.geteuid()


def shut_out(path: Path, admits: Callable[[Peer], bool]) -> int:
    """Cut the connections that a listener of ours at ``path`` took from peers it doesn't admit.

    It is for a server that can't be told whom to accept: gRPC accepts in C. What it has accepted is
    among this process's descriptors, so call this before anything is sent on a new connection.

    Returns:
        How many there were.
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
    """What is made meanwhile is ours alone from its creation on, as mode 0600.

    The umask is the process's: nothing else may run meanwhile, so there must be no ``await``.
    """
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def private_listener(path: Path) -> socket.socket:
    """A socket of mode 0600 that listens at ``path``.

    Raises:
        OSError: There can't be one.
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
    """Remove a socket of ours that nobody listens on any more; anything else is in the way."""
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
