"""Network namespaces by path, as ``ip netns`` and container runtimes keep them.

A dedicated thread enters a namespace and ends afterwards, so the rest of the process never leaves
its own namespace.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from troth.errors import EnvironmentLackError, PeerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.errors import TrothError

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)

# linux/sched.h, linux/mount.h, linux/nsfs.h, linux/sockios.h, linux/if.h
_CLONE_NEWNET = 0x40000000
_CLONE_NEWCGROUP = 0x02000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_NS_GET_NSTYPE = 0xB703
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IFREQ_FLAGS = struct.Struct("16sH22x")


def create(path: Path) -> None:
    """Create a network namespace with its loopback up; a bind mount at ``path`` keeps it.

    Raises:
        PeerError: Something is at ``path`` already.
        EnvironmentLackError: The kernel refuses, or ``path`` cannot be made.
    """
    _touch_new(path)
    try:
        _in_own_thread(lambda: _unshare_onto(path))
    except OSError as error:
        remove(path)
        raise _explain(error, path, "make") from error


def pin(source: Path, path: Path) -> None:
    """Keep the namespace at ``source`` by a bind mount at ``path``, too.

    ``source`` may be a process's ``/proc/PID/ns/net``: afterwards the process may end and its
    number may be reused.

    Raises:
        PeerError: Something is at ``path`` already, or no network namespace at ``source``.
        EnvironmentLackError: The kernel refuses, or ``path`` cannot be made.
    """
    with _Opened(source) as descriptor:
        _touch_new(path)
        try:
            _bind(b"/proc/thread-self/fd/%d" % descriptor, path)
        except OSError as error:
            remove(path)
            raise _explain(error, path, "pin") from error


def remove(path: Path) -> None:
    """Unmount the namespace at ``path``; it ends with its last process. No-op if missing.

    Raises:
        EnvironmentLackError: The kernel refuses.
    """
    try:
        # Detached, because a process may still have it open. A file that isn't a mount point
        # (EINVAL) is left over from a failed creation.
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return
        if error.errno != errno.EINVAL:
            raise _explain(error, path, "remove") from error
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _explain(error, path, "remove") from error


def inode(path: Path) -> int:
    """The namespace's number, as ``/proc/PID/ns/net`` shows it; unique while the namespace lives.

    Raises:
        PeerError: There is no network namespace at ``path``.
        EnvironmentLackError: It may not be opened.
    """
    with _Opened(path) as descriptor:
        return os.fstat(descriptor).st_ino


def call_in(path: Path, action: Callable[[], T]) -> T:
    """Call ``action`` in a new thread inside the namespace at ``path`` and return its result.

    Whatever ``action`` opens (sockets, netlink, ``/proc/sys/net``) and any process it starts
    belongs to that namespace. Exceptions of ``action`` propagate unchanged.

    Raises:
        PeerError: There is no network namespace at ``path``.
        EnvironmentLackError: It may not be entered.
    """
    with _Opened(path) as descriptor:

        def enter_and_act() -> T:
            try:
                _check(_libc.setns(descriptor, _CLONE_NEWNET))
            except OSError as error:
                raise _explain(error, path, "enter") from error
            return action()

        return _in_own_thread(enter_and_act)


def call_in_cgroups(path: Path, action: Callable[[], T]) -> T:
    """Call ``action`` in a new thread inside the cgroup namespace at ``path``.

    There it sees the paths of cgroups as the namespace's own processes do.

    Raises:
        OSError: There is none, or it may not be entered.
    """
    with path.open("rb") as opened:

        def enter_and_act() -> T:
            _check(_libc.setns(opened.fileno(), _CLONE_NEWCGROUP))
            return action()

        return _in_own_thread(enter_and_act)


def call_in_new(action: Callable[[], T]) -> T:
    """Call ``action`` like `call_in`, inside a new namespace that ends with it.

    Raises:
        EnvironmentLackError: The kernel can't create one.
    """

    def make_and_act() -> T:
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            _raise_loopback()
        except OSError as error:
            raise _explain(error, Path("(a new one)"), "make") from error
        return action()

    return _in_own_thread(make_and_act)


def socket_in(
    path: Path, family: socket.AddressFamily, kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """A new socket in the namespace at ``path``, usable from anywhere.

    Raises:
        PeerError: There is no network namespace at ``path``.
        EnvironmentLackError: It may not be entered.
    """
    return call_in(path, lambda: socket.socket(family, kind))


def enter_command(path: Path) -> list[str]:
    """The start of a command line that runs the rest of it in the namespace at ``path``."""
    return ["nsenter", f"--net={path}", "--"]


class _Opened:
    """A descriptor of the namespace at a path, verified to be one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> int:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _explain(error, self._path, "open") from error
        try:
            is_network = fcntl.ioctl(self._descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
        except OSError:  # ENOTTY: any other kind of file
            is_network = False
        if not is_network:
            os.close(self._descriptor)
            raise PeerError(
                f"network namespace {self._path}",
                "the file there is none",
                "its pod has ended, or its bind mount is in another mount namespace",
            )
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _in_own_thread(action: Callable[[], T]) -> T:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns") as threads:
        return threads.submit(action).result()


def _unshare_onto(path: Path) -> None:
    _check(_libc.unshare(_CLONE_NEWNET))
    _raise_loopback()
    _bind(b"/proc/thread-self/ns/net", path)


def _touch_new(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _explain(error, path, "make") from error


def _bind(source: bytes, path: Path) -> None:
    _check(_libc.mount(source, os.fsencode(path), None, _MS_BIND, None))


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(b"lo", 0))
        name, flags = _IFREQ_FLAGS.unpack(request)
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name, flags | _IFF_UP))


def _check(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _explain(error: OSError, path: Path, doing: str) -> TrothError:
    """Translate the kernel's errors into ours."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR if doing != "make":
            return PeerError(
                f"network namespace {path}", "does not exist", "its pod has ended or never started"
            )
        case errno.EEXIST:
            return PeerError(f"network namespace {path}", "exists already", "remove it first")
        case errno.EPERM | errno.EACCES:
            return EnvironmentLackError(
                f"no permission to {doing} network namespace {path}",
                "run as root, or in `unshare --user --map-root-user --net --mount`",
            )
        case errno.ENOSPC:
            return EnvironmentLackError(
                f"the kernel has no room for network namespace {path}",
                "raise the sysctl user.max_net_namespaces",
            )
        case _:
            return EnvironmentLackError(
                f"cannot {doing} network namespace {path}: {error.strerror}",
                "check that its directory exists and that the kernel has CONFIG_NET_NS",
            )
