"""The sysctls of a captured pod's network namespace: what each is set to, and why.

They belong to the namespace: they affect neither other pods nor the node. A container can't change
them unless it has CAP_NET_ADMIN (then it can do worse), or is root with a writable ``/proc/sys``,
which runtimes give only to privileged containers. They stay when the pod is released: captured
connections continue.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import structlog

from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_log = structlog.get_logger(__name__)


class Sysctl(NamedTuple):
    """One sysctl.

    Attributes:
        name: Its path below ``/proc/sys/net``.
        value: What it is to be.
        at_least: Leave a larger number as it is.
        vital: Whether connections fail without it. Without the others a pod is captured anyway, as
            an uncaptured one would be open.
    """

    name: str
    value: str
    at_least: bool = False
    vital: bool = False


_CONNTRACK = "netfilter/nf_conntrack_tcp"

_UNANSWERED_SECONDS = "300"
"""How long the kernel remembers where a half-closed connection was redirected to, after the last
segment of it. Envoy's keepalive probes come every minute (`troth.envoy`), so it never forgets one
whose ends are both there; and five minutes after the last end has gone, it has forgotten them all.
"""

POD_SYSCTLS = (
    # One end has closed, the other may still answer. The kernel's 60 s are as long as the time
    # between two probes.
    Sysctl(f"{_CONNTRACK}_timeout_close_wait", _UNANSWERED_SECONDS, at_least=True),
    # A FIN that nobody has acknowledged yet is sent again, up to two minutes after the last time
    # (TCP_RTO_MAX). If the kernel has forgotten the connection by then (120 s, 30 s), it is sent
    # from Envoy's own port, and never arrives.
    Sysctl(f"{_CONNTRACK}_timeout_fin_wait", _UNANSWERED_SECONDS, at_least=True),
    Sysctl(f"{_CONNTRACK}_timeout_last_ack", _UNANSWERED_SECONDS, at_least=True),
    # A segment outside of the window, such as a late copy, isn't redirected otherwise: it reaches
    # the app's own port, which answers with a reset, and that ends the connection.
    Sysctl(f"{_CONNTRACK}_be_liberal", "1"),
    # The app's answers to Envoy, including refusals, get Envoy's mark, which routes them back to
    # Envoy rather than to the client whose address Envoy uses (`troth.agent.netlink`).
    Sysctl("ipv4/tcp_fwmark_accept", "1", vital=True),
    Sysctl("ipv4/fwmark_reflect", "1", vital=True),
    Sysctl("ipv6/fwmark_reflect", "1", vital=True),
    # Many short connections from one client to one port run out of ports in TIME_WAIT otherwise.
    Sysctl("ipv4/tcp_tw_reuse", "1"),
    # What is sent to a peer that has vanished is sent again for 102 s instead of a quarter of an
    # hour: the least that RFC 1122, 4.2.3.5 allows, and about as long as keepalive takes when
    # nothing is sent. (TCP_USER_TIMEOUT won't do: it also ends connections to slow readers.) It
    # holds for Envoy's sockets, since an app's own are connected to Envoy, in the same kernel.
    Sysctl("ipv4/tcp_retries2", "8"),
)
"""The sysctls of every captured pod."""


def apply_sysctls(sysctls: Iterable[Sysctl] = POD_SYSCTLS) -> frozenset[str]:
    """Set sysctls in the calling thread's network namespace; idempotent.

    Returns:
        Names of those that the kernel doesn't have, or doesn't let us set. Those of connection
        tracking appear with the first rule that asks for it.

    Raises:
        EnvironmentLackError: The kernel doesn't let us set one that is vital.
    """

    def is_set(sysctl: Sysctl) -> bool:
        try:
            return set_sysctl(sysctl.name, sysctl.value, sysctl.at_least)
        except OSError as error:
            if sysctl.vital:
                raise
            _log.warning("a sysctl can't be set", name=sysctl.name, reason=str(error))
            return False

    try:
        return frozenset(each.name for each in sysctls if not is_set(each))
    except OSError as error:
        raise EnvironmentLackError(
            f"cannot set sysctls in the pod's network namespace: {error}",
            "run as root with CAP_NET_ADMIN, and with CAP_SYS_ADMIN where /proc/sys is read-only",
        ) from error


def set_sysctl(name: str, value: str, at_least: bool = False) -> bool:  # noqa: FBT001, FBT002 - as of `Sysctl`
    """Set a sysctl of the calling thread's network namespace; whether the kernel has it.

    Arguments as of `Sysctl`.

    Raises:
        OSError: The kernel doesn't let us.
    """
    sysctl = Sysctl(name, value, at_least)
    try:
        return _set_at(None, sysctl)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    # Container runtimes show /proc/sys read-only.
    with _own_proc() as proc:
        return _set_at(proc, sysctl)


def _set_at(proc: int | None, sysctl: Sysctl) -> bool:
    """Set it in a proc file system, or the one at ``/proc``."""
    path = f"sys/net/{sysctl.name}" if proc is not None else f"/proc/sys/net/{sysctl.name}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC, dir_fd=proc)
    except FileNotFoundError:
        return False
    try:
        if sysctl.at_least and int(os.read(descriptor, 64)) >= int(sysctl.value):
            return True
        os.pwrite(descriptor, sysctl.value.encode(), 0)
    except OSError as error:
        if error.errno == errno.EINVAL:  # no value for this kernel, or this user namespace
            return False
        error.filename = path
        raise
    finally:
        os.close(descriptor)
    return True


_libc = ctypes.CDLL(None, use_errno=True)

# asm-generic/unistd.h (the same on all architectures), linux/mount.h; Linux 5.2 and later.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6


@contextmanager
def _own_proc() -> Iterator[int]:
    """An unmounted proc file system, so that nobody else can access it."""
    context = _call(_FSOPEN, b"proc", _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        yield mount
    finally:
        os.close(mount)


def _call(number: int, *arguments: bytes | int | None) -> int:
    padded = [each if isinstance(each, bytes) else ctypes.c_long(each or 0) for each in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *padded)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "/proc")
    return result
