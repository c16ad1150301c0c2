"""Turns its own process into one container's: run as a script, with the standard library only.

``python -I -S _launch.py SPEC.json [-- ARGV...]`` enters the pod's network namespace, puts the
pod's files in place in a mount namespace of its own, gives up what a container may not do, and
executes. The exit code is 125 when that cannot be set up, 126 when the command cannot be
executed and 127 when it does not exist, as with ``env`` and ``chroot``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import stat
import sys
from typing import TYPE_CHECKING, NoReturn, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterator


def launch_command(spec_path: str | os.PathLike[str]) -> list[str]:
    """The command line that becomes the container of a spec file; ``-- ARGV`` may follow."""
    return [sys.executable, "-I", "-S", __file__, os.fspath(spec_path)]


class Bind(TypedDict):
    """A file or directory that appears at ``target`` in the container."""

    source: str
    target: str
    read_only: bool


class LaunchSpec(TypedDict):
    """What the container is; as JSON in a file of mode 0600, since ``env`` may hold secrets.

    Attributes:
        pod: ``NAMESPACE/NAME``, for messages.
        container: Its name, for messages.
        netns: The path of the pod's network namespace.
        hostname: The pod's.
        argv: The command, unless the command line gives another.
        env: All of the environment.
        cwd: The working directory.
        binds: What appears where.
        hidden: Directories that the container must see empty.
        scratch: An empty directory to build mounts in.
        privileged: Keeps every capability, for debugging.
    """

    pod: str
    container: str
    netns: str
    hostname: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    binds: list[Bind]
    hidden: list[str]
    scratch: str
    privileged: bool


_libc = ctypes.CDLL(None, use_errno=True)

# linux/sched.h, linux/mount.h, linux/prctl.h
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWNET = 0x40000000
_MS_RDONLY = 1
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_REMOUNT = 32
_MS_BIND = 4096
_MS_MOVE = 8192
_MS_REC = 16384
_MS_UNBINDABLE = 1 << 17
_MS_PRIVATE = 1 << 18
_MS_RELATIME = 1 << 21
_ST_RELATIME = 4096
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

# linux/capability.h: what a Docker container has, less NET_RAW and MKNOD. NET_RAW may set SO_MARK
# since Linux 5.17, and with Envoy's mark traffic would slip past the capture.
_KEPT_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "SYS_CHROOT": 18,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}

_SETUP_FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127


def main(arguments: list[str]) -> NoReturn:
    """Becomes the container of the spec file ``arguments[0]``."""
    with open(arguments[0], encoding="utf-8") as file:  # noqa: PTH123 - pathlib is slow to import
        spec: LaunchSpec = json.load(file)
    argv = arguments[2:] if arguments[1:2] == ["--"] else spec["argv"]
    try:
        _enter_namespaces(spec)
        _Files(spec["scratch"]).arrange(spec["binds"], spec["hidden"])
        with _doing("change to the working directory", spec["cwd"]):
            os.chdir(spec["cwd"])
        if not spec["privileged"]:
            with _doing("give up capabilities"):
                _restrict()
    except _CannotError as failure:
        _end(spec, str(failure), _SETUP_FAILED)
    _reset_signals()
    os.umask(0o022)
    _execute(spec, argv)


class _CannotError(Exception):
    """What could not be done, and why."""


@contextlib.contextmanager
def _doing(what: str, where: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _CannotError(f"cannot {what} {where}".rstrip() + f": {error.strerror}") from error


def _end(spec: LaunchSpec, text: str, code: int) -> NoReturn:
    sys.stderr.write(f"troth: pod {spec['pod']}, container {spec['container']}: {text}\n")
    raise SystemExit(code)


def _enter_namespaces(spec: LaunchSpec) -> None:
    with _doing("enter network namespace", spec["netns"]):
        descriptor = os.open(spec["netns"], os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(descriptor, _CLONE_NEWNET))
        os.close(descriptor)
    with _doing("make mount and UTS namespaces"):
        _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS))
        _mount(None, "/", _MS_REC | _MS_PRIVATE)
    with _doing("set the hostname", spec["hostname"]):
        name = spec["hostname"].encode()
        _check(_libc.sethostname(name, len(name)))


class _Files:
    """Arranges the mount namespace; the host's own directories are never written to."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._ours: set[str] = set()

    def arrange(self, binds: list[Bind], hidden: list[str]) -> None:
        """Puts every source at its target, outer ones first, then hides what is not to be seen."""
        for bind in sorted(binds, key=lambda bind: bind["target"].count("/")):
            with _doing("mount", f"{bind['source']} at {bind['target']}"):
                self._bind(bind)
        for directory in (*hidden, *_copies(binds, hidden)):
            with _doing("hide", directory):
                _mount("tmpfs", directory, _MS_RDONLY, kind="tmpfs", options="mode=0")

    def _bind(self, bind: Bind) -> None:
        # Of a symbolic link (/etc/resolv.conf with systemd-resolved) what it leads to is covered.
        target = os.path.realpath(bind["target"])
        if not os.path.lexists(target):
            self._make_mount_point(target, directory=os.path.isdir(bind["source"]))  # noqa: PTH112 - as above
        _mount(bind["source"], target, _MS_BIND | _MS_REC)
        if bind["read_only"]:
            _mount(None, target, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _locked_flags(target))

    def _make_mount_point(self, target: str, *, directory: bool) -> None:
        parent = os.path.dirname(target)  # noqa: PTH120 - as above
        missing: list[str] = []
        while not os.path.lexists(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)  # noqa: PTH120 - as above
        if parent not in self._ours:
            self._make_room(parent)
        for path in reversed(missing):
            os.mkdir(path, 0o755)  # noqa: PTH102 - as above
            self._ours.add(path)
        _make_node(target, directory=directory)

    def _make_room(self, directory: str) -> None:
        """Replaces ``directory`` by one in memory that shows the same and takes new entries."""
        _mount("tmpfs", self._scratch, 0, kind="tmpfs", options="mode=755")
        _mount(None, self._scratch, _MS_UNBINDABLE)  # or it would be in a copy of itself
        with os.scandir(directory) as entries:
            for entry in entries:
                copy = f"{self._scratch}/{entry.name}"
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), copy)  # noqa: PTH115, PTH211 - as above
                else:
                    _make_node(copy, directory=entry.is_dir())
                    _mount(entry.path, copy, _MS_BIND | _MS_REC)
        mode = stat.S_IMODE(os.stat(directory).st_mode)  # noqa: PTH116 - as above
        os.chmod(self._scratch, mode)  # noqa: PTH101 - as above
        if directory == "/":
            os.chdir(self._scratch)
            _mount(".", "/", _MS_MOVE)
            os.chroot(".")
            os.chdir("/")
        else:
            _mount(self._scratch, directory, _MS_MOVE)
        _mount(None, directory, _MS_PRIVATE)
        self._ours.add(directory)


def _copies(binds: list[Bind], hidden: list[str]) -> Iterator[str]:
    """Where else the hidden directories appear: a hostPath volume may hold one of them."""
    for bind in binds:
        source = os.path.realpath(bind["source"]).rstrip("/")
        for directory in map(os.path.realpath, hidden):
            if directory == source or directory.startswith(f"{source}/"):
                yield os.path.realpath(bind["target"]) + directory.removeprefix(source)


def _make_node(path: str, *, directory: bool) -> None:
    if directory:
        os.mkdir(path, 0o755)  # noqa: PTH102 - pathlib is slow to import
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _locked_flags(path: str) -> int:
    """Flags that a mapped root must repeat when it remounts what came from outside."""
    flags = os.statvfs(path).f_flag
    kept = flags & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    return kept | (_MS_RELATIME if flags & _ST_RELATIME else 0)


def _restrict() -> None:
    """Keeps ``_KEPT_CAPABILITIES`` at most, for good."""
    kept = set(_KEPT_CAPABILITIES.values())
    for capability in sorted(set(range(_last_capability() + 1)) - kept):
        _check(_prctl(_PR_CAPBSET_DROP, capability))
    _check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL))
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their high words
    _check(_libc.capget(header, data))
    mask = data[1] & sum(1 << capability for capability in kept)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(mask, mask)))


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:  # noqa: PTH123 - as above
        return int(file.read())


def _reset_signals() -> None:
    """Python ignores SIGPIPE, and an ignored signal stays so in the executed program."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _execute(spec: LaunchSpec, argv: list[str]) -> NoReturn:
    command = argv[0]
    try:
        os.execvpe(command, argv, spec["env"])  # noqa: S606 - no shell is the point
    except FileNotFoundError:
        searched = "" if "/" in command else f" in PATH {spec['env'].get('PATH', os.defpath)}"
        text = f"cannot run {command!r}: no such file{searched}, or its interpreter is missing"
        _end(spec, text, _NOT_FOUND)
    except OSError as error:
        _end(spec, f"cannot run {command!r}: {error.strerror}", _NOT_EXECUTABLE)
    except ValueError as error:  # a zero byte somewhere
        _end(spec, f"cannot run {command!r}: {error}", _NOT_EXECUTABLE)


def _mount(
    source: str | None, target: str, flags: int, *, kind: str = "", options: str = ""
) -> None:
    arguments = [None if text is None else text.encode() for text in (source, target)]
    _check(
        _libc.mount(
            *arguments, kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
        )
    )


def _prctl(option: int, *arguments: int) -> int:
    padded = [*arguments, 0, 0, 0, 0][:4]
    result: int = _libc.prctl(option, *map(ctypes.c_ulong, padded))
    return result


def _check(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
