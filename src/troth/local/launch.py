"""Turns its own process into one container's: run as a script, with the standard library only.

``python -I -S launch.py SPEC.json`` is started inside the pod's network, PID, IPC and UTS
namespaces. It gives the container a mount namespace of its own (`_Root`), gives up what a container
may not do, and executes. ``python -I -S launch.py SPEC.json --join -- ARGV...`` runs another
command in the container that was made so, as an exec probe does. The exit code is 125 when that
cannot be set up, 126 when the command cannot be executed and 127 when it does not exist, as with
``env`` and ``chroot``.

While it still has all rights, nothing of it is in reach of the pod: it can't be traced, its program
is on a read-only mount (so ``/proc/self/exe`` leads to nothing that can be written), and it looks
nothing up in the container's files before it has given up its rights.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import stat
import sys
import time
from typing import TYPE_CHECKING, NoReturn, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def launch_command(spec_path: str | os.PathLike[str]) -> list[str]:
    """The command line that becomes the container of a spec file."""
    return [sys.executable, "-I", "-S", __file__, os.fspath(spec_path)]


def join_command(spec_path: str | os.PathLike[str], argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` in the running container of a spec file."""
    return [*launch_command(spec_path), "--join", "--", *argv]


def note_path(spec_path: str | os.PathLike[str]) -> str:
    """Where the container of a spec file says which process it is, once it is made."""
    return f"{os.fspath(spec_path)}.running"


class Bind(TypedDict):
    """A file or directory that appears at ``target`` in the container.

    Attributes:
        source: A path on the host.
        inside: What of it appears, by a relative path. No link is followed on it, since an app
            may have made one there.
        target: Where it appears, by the container's own view of its files.
        read_only: Whether the container may only read it, and all that is mounted below it.
        own: Whether it is the mesh's own, and so may be in a directory that is hidden.
    """

    source: str
    inside: str
    target: str
    read_only: bool
    own: bool


class LaunchSpec(TypedDict):
    """What the container is; as JSON in a file of mode 0600, since ``env`` may hold secrets.

    Attributes:
        pod: ``NAMESPACE/NAME``, for messages.
        container: Its name, for messages.
        netns: The path of the pod's network namespace.
        sandbox: The process that keeps the pod's other namespaces.
        argv: The command.
        env: All of the environment.
        cwd: The working directory.
        binds: What appears where.
        hidden: Directories that the container must not see.
        scratch: An empty directory to build mounts in.
        read_only_root: Whether it may write nowhere but to its volumes.
        capabilities: Those that it may have.
        user: Its user ID.
        group: Its group ID.
        groups: Its supplementary groups.
    """

    pod: str
    container: str
    netns: str
    sandbox: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    binds: list[Bind]
    hidden: list[str]
    scratch: str
    read_only_root: bool
    capabilities: list[str]
    user: int
    group: int
    groups: list[int]


_libc = ctypes.CDLL(None, use_errno=True)

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/openat2.h, linux/capability.h
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x04, 0x08
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 1
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_KEYCTL_JOIN_SESSION_KEYRING = 1

# The newer system calls have one number on all architectures but Alpha.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 428, 429, 437, 442
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}

POD_NAMESPACES = _CLONE_NEWPID | _CLONE_NEWIPC | _CLONE_NEWUTS
"""What the containers of a pod share besides the network, as flags of unshare(2)."""

# What a Docker container has, less NET_RAW and MKNOD. NET_RAW may set SO_MARK since Linux 5.17, and
# with Envoy's mark traffic would slip past the capture.
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
_JOIN_SECONDS = 10.0
_POLL_SECONDS = 0.01


def main(arguments: list[str]) -> NoReturn:
    """Becomes the container of the spec file ``arguments[0]``, or a process in it."""
    with open(arguments[0], encoding="utf-8") as file:
        spec: LaunchSpec = json.load(file)
    argv = arguments[3:] if arguments[1:2] == ["--join"] else spec["argv"]
    note = note_path(arguments[0])
    os.umask(0o022)
    try:
        with _doing("make a mount namespace"):
            _check(_prctl(_PR_SET_DUMPABLE, 0))
            _stand_on_read_only_ground(arguments)
        rights = _Rights()
        if argv is spec["argv"]:
            _Root(spec).become(note)
        else:
            _join(spec, note)
        with _doing("give up privileges"):
            rights.restrict_to(spec)
            if argv is not spec["argv"]:
                _check(_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
        with _doing("change to the working directory", spec["cwd"]):
            os.chdir(spec["cwd"])
    except _CannotError as failure:
        _end(spec, str(failure), _SETUP_FAILED)
    _execute(spec, argv)


class _CannotError(Exception):
    """What could not be done, and why."""


@contextlib.contextmanager
def _doing(what: str, where: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.ENOSYS:
            reason = "the kernel lacks a system call that Linux 5.12 and later have"
        raise _CannotError(f"cannot {what} {where}".rstrip() + f": {reason}") from error


def _end(spec: LaunchSpec, text: str, code: int) -> NoReturn:
    sys.stderr.write(f"troth: pod {spec['pod']}, container {spec['container']}: {text}\n")
    raise SystemExit(code)


# Where it runs


def hold_program() -> None:
    """Make this Python's program read-only in the mount namespace we are in.

    Launchers that are started in it need not make one for that first.

    Raises:
        OSError: The kernel refuses.
    """
    program = os.path.realpath("/proc/self/exe")
    _mount(program, program, _MS_BIND)
    _set_read_only(program)


def _stand_on_read_only_ground(arguments: list[str]) -> None:
    """Start again if our program is on a mount that can be written to.

    A container may have itself executed by way of ``/proc/self/exe`` while that still is our
    program, and so come by a path to it that knows nothing of the container's own files.
    """
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY:
        return
    _check(_libc.unshare(_CLONE_NEWNS))
    _mount(None, "/", _MS_REC | _MS_PRIVATE)
    hold_program()
    program = os.path.realpath("/proc/self/exe")
    os.execv(program, [program, "-I", "-S", __file__, *arguments])  # noqa: S606 - no shell is the point


def _join(spec: LaunchSpec, note: str) -> None:
    """Enter the running container.

    Of who isn't in the pod's PID namespace a child returns, and the parent waits for it.
    """
    sandbox, container = spec["sandbox"], _running(note)
    with _doing("enter the pod's namespaces"):
        us = int(os.readlink("/proc/self"))
        if not os.path.samestat(os.stat(f"/proc/{sandbox}/ns/net"), os.stat(spec["netns"])):
            raise ProcessLookupError(errno.ESRCH, "it has ended")
        if container.pid_namespace != _namespace(sandbox, "pid"):
            raise ProcessLookupError(errno.ESRCH, "it has ended")
        if container.pid_namespace != _namespace(us, "pid"):
            _check(_libc.setns(os.pidfd_open(sandbox), POD_NAMESPACES | _CLONE_NEWNET))
            child = os.fork()
            if child:
                _stand_in_for(child)
        _check(_libc.setns(container.mount_namespace, _CLONE_NEWNS))
    with _doing("give up privileges"):
        _new_session_keyring()


class _Running:
    """The first process of a container, known to be the one that its launcher became.

    Process IDs are those of the mesh's own ``/proc``.

    Attributes:
        mount_namespace: A descriptor of it.
        pid_namespace: The number of it.
    """

    def __init__(self, pid: int, started: str, mount_namespace: int) -> None:
        self.mount_namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.pid_namespace = _namespace(pid, "pid")
        if os.fstat(self.mount_namespace).st_ino != mount_namespace or _started(pid) != started:
            raise ProcessLookupError(errno.ESRCH, "it has ended")


def _running(note: str) -> _Running:
    deadline = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            with open(note, encoding="ascii") as file:
                pid, started, mount_namespace = file.read().split()
        except (OSError, ValueError) as error:  # it is just being made
            if time.monotonic() > deadline:
                raise _CannotError("the container is not running") from error
            time.sleep(_POLL_SECONDS)
            continue
        try:
            return _Running(int(pid), started, int(mount_namespace))
        except OSError as error:
            raise _CannotError("the container is not running") from error


def _who_we_are() -> bytes:
    """What those who join later know us by, in the numbers of the mesh's own ``/proc``."""
    pid = int(os.readlink("/proc/self"))
    return f"{pid} {_started(pid)} {_namespace(pid, 'mnt')}\n".encode("ascii")


def _started(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[19]


def _namespace(pid: int, kind: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def _stand_in_for(child: int) -> NoReturn:
    """Pass on signals to ``child``, stop and go on with it, and end as it does."""

    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
        signal.signal(number, forward)
    for number in (signal.SIGINT, signal.SIGQUIT):  # the terminal sends them to both of us
        signal.signal(number, signal.SIG_IGN)
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)
            continue
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)


# What it sees


class _Mount:
    """A line of ``/proc/self/mountinfo`` (proc(5)); of what else is there nothing is wanted."""

    def __init__(self, line: str) -> None:
        fields = line.split(" ")
        self.device = fields[2]
        self.root = _unescaped(fields[3])
        self.point = _unescaped(fields[4])
        self.read_only = "ro" in fields[5].split(",")
        self.kind = fields[fields.index("-") + 1]


_SHOWN_EMPTY = frozenset({"/proc", "/sys", "/dev", "/run"})
"""What a container has of its own instead of the host's."""

_NO_FILES = frozenset(
    {
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
        *("devtmpfs", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "overlay", "proc"),
        *("pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"),
    }
)
"""File systems below the host's directories that no app comes for."""

_WRITABLE = ("/var/cache", "/var/lib", "/var/log", "/var/mail", "/var/opt", "/var/spool")
"""Where apps make files, and where a plain user, who isn't the host's root, could make none."""

_MASKED_FILES = ("kcore", "keys", "latency_stats", "timer_list", "sched_debug", "kmsg")
_MASKED_DIRECTORIES = ("acpi", "asound", "scsi")
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")


class _Root:
    """A root directory of the container's own, made in a mount namespace of its own.

    The root is a directory in memory. In it is an overlay for each of the host's directories, whose
    upper layer is in memory, too: the container sees the host's files and may change them, but what
    it changes nobody else sees, and nothing is left of it at its end. Since a socket or a pipe in
    an overlay is another one than the host's, none of the host's services are in reach.

    A directory with mounts below it that came from another user namespace can't be an overlay: it
    becomes a directory in memory with an overlay for each of its entries.
    """

    def __init__(self, spec: LaunchSpec) -> None:
        self._spec = spec
        self._layers = 0
        self._mounts: list[_Mount] = []
        self._hidden: list[str] = []
        self._overlays: list[str] = []
        self._users = users()

    def become(self, note: str) -> None:
        """Make it and change into it; ``note`` is where those who join look for who we are."""
        spec = self._spec
        with _doing("make a mount namespace"):
            _check(_libc.unshare(_CLONE_NEWNS))
            _mount(None, "/", _MS_REC | _MS_PRIVATE)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(note)
            noted = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        own = [(bind, _taken(bind)) for bind in spec["binds"] if bind["own"]]
        with _doing("make room for the container's files in", spec["scratch"]):
            _mount("tmpfs", spec["scratch"], _MS_NODEV, kind="tmpfs", options="mode=755")
            os.chdir(spec["scratch"])
        for directory in spec["hidden"]:
            with _doing("hide", directory):
                self._hide(directory)
        # The user's own only now: however one of these leads there, what is hidden is empty.
        others = [(bind, _taken(bind)) for bind in spec["binds"] if not bind["own"]]
        with _doing("make the container's root directory"):
            self._build()
            self._show_processes()
            self._show_devices()
            self._show_system()
            us = _who_we_are()
            os.chdir("root")
            _check(_libc.pivot_root(b".", b"."))
            _check(_libc.umount2(b".", _MNT_DETACH))
            os.chdir("/")
        self._place([*own, *others])
        with _doing("make the root file system read-only"):
            for point in ("/", *self._overlays) if spec["read_only_root"] else ():
                _set_read_only(point, recursive=False)
        with _doing("note that the container is made"):
            _new_session_keyring()
            os.write(noted, us)

    def _hide(self, directory: str) -> None:
        """Cover it, wherever it appears."""
        mounts = _mounts()
        real = os.path.realpath(directory)
        found = os.stat(real)
        for place in (real, *_elsewhere(real, mounts)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                if os.path.samestat(os.stat(place), found):
                    self._hidden.append(place)
        for place in self._hidden:
            _cover(place)

    def _build(self) -> None:
        scratch = os.path.realpath(self._spec["scratch"])
        self._mounts = [
            mount
            for mount in _mounts()
            if mount.kind not in _NO_FILES
            and not _is_in(mount.point, (*_SHOWN_EMPTY, *self._hidden, scratch))
        ]
        for layer in ("layers", "root"):
            os.mkdir(layer, 0o755)
        _mount("tmpfs", "root", _MS_NODEV, kind="tmpfs", options="mode=755")
        os.mkdir("empty")
        if not self._overlay("/proc/self/cwd/empty", "empty"):
            raise OSError(errno.ENODEV, "the kernel mounts no overlayfs (Linux 5.11 or later does)")
        self._overlays.clear()
        self._show_entries("/")
        for directory, mode in (("/run/lock", 0o1777), ("/run/user", 0o755)):
            os.mkdir(f"root{directory}")
            os.chmod(f"root{directory}", mode)
        for place in self._hidden:
            if os.path.lexists(f"root{place}"):
                _cover(f"root{place}")

    def _show_entries(self, directory: str) -> None:
        """Fill a directory in memory with what ``directory`` shows."""
        with os.scandir(directory) as entries:
            for entry in entries:
                target = f"root{entry.path}"
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), target)
                elif entry.is_dir():
                    os.mkdir(target, 0o755)
                    if entry.path not in _SHOWN_EMPTY and entry.path not in self._hidden:
                        self._show_directory(entry.path)
                elif entry.is_file():
                    _make_node(target, directory=False)
                    _show_read_only(entry.path, target)

    def _show_directory(self, path: str) -> None:
        below = [mount for mount in self._mounts if mount.point.startswith(f"{path}/")]
        if self._overlay(path, f"root{path}"):
            for mount in below:
                self._show_mount(mount)
        elif below:
            self._copy_attributes(path, f"root{path}")
            self._show_entries(path)
        else:
            _show_read_only(path, f"root{path}")

    def _show_mount(self, mount: _Mount) -> None:
        target = f"root{mount.point}"
        if not os.path.lexists(target):  # something else is mounted over it
            return
        if mount.read_only or not os.path.isdir(target) or not self._overlay(mount.point, target):
            _show_read_only(mount.point, target)

    def _overlay(self, path: str, target: str) -> bool:
        """Show a directory of the host's as one that may be changed; whether that can be."""
        upper, work = f"layers/{self._layers}", f"layers/{self._layers}.work"
        self._layers += 1
        for layer in (upper, work):
            os.mkdir(layer)
        self._copy_attributes(path, upper)
        # What a plain user could not make later, since the host's directories are not theirs.
        for directory in _WRITABLE if self._users == 1 else ():
            if directory.startswith(f"{path}/") and os.path.isdir(directory):
                self._make_upper(upper, path, directory)
        for bind in self._spec["binds"]:
            point = os.path.realpath(bind["target"])
            if point.startswith(f"{path}/"):
                self._make_upper(upper, path, os.path.dirname(point))
        lower = "".join(f"\\{letter}" if letter in "\\:," else letter for letter in path)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        if self._users != _ALL_USERS:
            options += ",userxattr"
        try:
            _mount("overlay", target, _MS_NODEV, kind="overlay", options=options)
        except OSError:
            return False
        self._overlays.append(target.removeprefix("root"))
        return True

    def _make_upper(self, upper: str, lower: str, directory: str) -> None:
        """Have a directory, and those above it, in the upper layer of an overlay of ``lower``."""
        path, layer = lower, upper
        for name in directory.removeprefix(lower).strip("/").split("/"):
            if not name:
                return
            path, layer = f"{path}/{name}", f"{layer}/{name}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(layer, 0o755)
                if os.path.isdir(path):
                    self._copy_attributes(path, layer)

    def _copy_attributes(self, path: str, copy: str) -> None:
        found = os.stat(path)
        with contextlib.suppress(OSError):  # a user that our user namespace doesn't have
            os.chown(copy, found.st_uid, found.st_gid)
        os.chmod(copy, stat.S_IMODE(found.st_mode))

    def _show_processes(self) -> None:
        """The pod's processes, and of the kernel's settings what an app may read."""
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        _mount("proc", "root/proc", flags, kind="proc")
        for name in _READ_ONLY:
            if os.path.lexists(f"root/proc/{name}"):
                _show_read_only(f"root/proc/{name}", f"root/proc/{name}")
        for name in _MASKED_FILES:
            if os.path.lexists(f"root/proc/{name}"):
                _show_read_only("/dev/null", f"root/proc/{name}")
        for name in _MASKED_DIRECTORIES:
            if os.path.lexists(f"root/proc/{name}"):
                _cover(f"root/proc/{name}")

    def _show_devices(self) -> None:
        flags = _MS_NOSUID | _MS_NOEXEC
        _mount("tmpfs", "root/dev", flags, kind="tmpfs", options="mode=755,size=64k")
        for name in _DEVICES:
            if os.path.lexists(f"/dev/{name}"):
                _make_node(f"root/dev/{name}", directory=False)
                _mount(f"/dev/{name}", f"root/dev/{name}", _MS_BIND)
        links = {"fd": "/proc/self/fd", "ptmx": "pts/ptmx"}
        links |= {
            name: f"/proc/self/fd/{n}" for n, name in enumerate(("stdin", "stdout", "stderr"))
        }
        for name, target in links.items():
            os.symlink(target, f"root/dev/{name}")
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(f"root/dev/{name}", 0o755)
        group = ",gid=5" if self._users == _ALL_USERS else ""
        options = f"newinstance,ptmxmode=0666,mode=0620{group}"
        _mount("devpts", "root/dev/pts", flags, kind="devpts", options=options)
        flags |= _MS_NODEV
        _mount("tmpfs", "root/dev/shm", flags, kind="tmpfs", options="mode=1777")
        with contextlib.suppress(OSError):  # not every kernel has it
            _mount("mqueue", "root/dev/mqueue", flags, kind="mqueue")

    def _show_system(self) -> None:
        """What sysfs tells, of the pod's own network if that may be mounted."""
        flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        try:
            _mount("sysfs", "root/sys", flags, kind="sysfs")
        except OSError:  # some of the host's is covered, and has to stay so
            _show_read_only("/sys", "root/sys")
        else:
            if os.path.isdir("/sys/fs/cgroup") and os.path.isdir("root/sys/fs/cgroup"):
                _show_read_only("/sys/fs/cgroup", "root/sys/fs/cgroup")
        for name in ("firmware", "fs/bpf", "kernel/debug", "kernel/security", "kernel/tracing"):
            if os.path.isdir(f"root/sys/{name}"):
                _cover(f"root/sys/{name}")

    def _place(self, binds: list[tuple[Bind, int]]) -> None:
        """Put the volumes where they belong, outer ones first."""
        binds.sort(key=lambda each: each[0]["target"].count("/"))
        targets: list[str] = []
        for bind, tree in binds:
            with _doing("mount", f"{bind['source']} at {bind['target']}"):
                # Of a link (/etc/resolv.conf with systemd-resolved) what it leads to is covered.
                target = os.path.realpath(bind["target"])
                targets.append(target)
                if not os.path.lexists(target):
                    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
                    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
                    _make_node(target, directory=is_directory)
                _move_mount(tree, target)
        for (bind, tree), target in zip(binds, targets, strict=True):
            if bind["read_only"]:
                nested = any(other.startswith(f"{target}/") for other in targets)
                with _doing("make read-only", bind["target"]):
                    _set_read_only_at(tree, "", recursive=not nested)


def _taken(bind: Bind) -> int:
    """A copy of what a volume shows, mounted nowhere yet."""
    with _doing("mount", f"{bind['source']} at {bind['target']}"):
        root = os.open(bind["source"], os.O_PATH | os.O_CLOEXEC)
        inside = open_beneath(root, bind["inside"])
        flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | _AT_RECURSIVE | os.O_CLOEXEC
        tree = int(_libc.syscall(_SYS_OPEN_TREE, inside, b"", flags))
        _check(tree)
        os.close(inside)
        os.close(root)
        return tree


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(directory: int, path: str, *, make: int | None = None) -> int:
    """Open what is at a relative path, without following any link on it.

    Args:
        directory: Where the path begins.
        path: What is there may be changed by an app at any time. Empty for ``directory`` itself.
        make: Make the directories that are missing, with this mode.

    Returns:
        A descriptor that stands for it (``O_PATH``).

    Raises:
        OSError: There is nothing (ENOENT), a link on the way (ELOOP), or it leads out (EXDEV).
    """
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not names:
        return os.dup(directory)
    if make is None:
        return _openat2(directory, "/".join(names), os.O_PATH)
    at = os.dup(directory)
    try:
        for name in names:
            made = False
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, make, dir_fd=at)
                made = True
            parent, at = at, _openat2(at, name, os.O_PATH)
            os.close(parent)
            if made:  # the umask may have taken something away
                os.chmod(f"/proc/self/fd/{at}", make)
    except BaseException:
        os.close(at)
        raise
    return at


def _openat2(directory: int, path: str, flags: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    descriptor = int(
        _libc.syscall(_SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), size)
    )
    _check(descriptor)
    return descriptor


def _mounts() -> list[_Mount]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [_Mount(line) for line in file]


def _unescaped(text: str) -> str:
    r"""What mountinfo writes as ``\040`` and the like."""
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def _is_in(path: str, directories: Sequence[str] | frozenset[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in directories)


def _elsewhere(path: str, mounts: list[_Mount]) -> Iterator[str]:
    """Where else a directory may appear: part of its file system may be mounted several times."""
    around = [mount for mount in mounts if mount.point == "/" or _is_in(path, (mount.point,))]
    if not around:
        return
    its = max(around, key=lambda mount: len(mount.point))
    inside = its.root.rstrip("/") + path.removeprefix(its.point.rstrip("/"))
    for mount in mounts:
        root = mount.root.rstrip("/")
        if mount.device == its.device and _is_in(inside, (root,)):
            place = mount.point.rstrip("/") + inside.removeprefix(root)
            if place != path:
                yield place


def users() -> int:
    """How many users our user namespace has: one alone if a plain user has made it."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return sum(int(line.split()[2]) for line in file)


_ALL_USERS = 2**32 - 1


def _cover(directory: str) -> None:
    _mount("tmpfs", directory, _MS_RDONLY, kind="tmpfs", options="mode=0")


def _show_read_only(source: str, target: str) -> None:
    _mount(source, target, _MS_BIND | _MS_REC)
    _set_read_only(target)


def _make_node(path: str, *, directory: bool) -> None:
    if directory:
        os.mkdir(path, 0o755)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))


# What it may do


class _Rights:
    """The rights that we have; looked at while ``/proc`` is still the mesh's."""

    def __init__(self) -> None:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            self._last_capability = int(file.read())
        self._users = users()

    def restrict_to(self, spec: LaunchSpec) -> None:
        """Keep nothing open, and have only a container's capabilities and user, for good."""
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        kept = {_KEPT_CAPABILITIES[name] for name in spec["capabilities"]}
        for capability in sorted(set(range(self._last_capability + 1)) - kept):
            _check(_prctl(_PR_CAPBSET_DROP, capability))
        _check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL))
        _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1))
        if self._users > 1:  # or there is nobody else to be
            for output in (1, 2):  # for /dev/stdout and /dev/stderr, which it may open
                if stat.S_ISFIFO(os.fstat(output).st_mode):
                    os.fchown(output, spec["user"], spec["group"])
            os.setgroups(spec["groups"])
            os.setresgid(*[spec["group"]] * 3)
            os.setresuid(*[spec["user"]] * 3)
        # Last, as it may be without the right to change its user from here on.
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their high words
        _check(_libc.capget(header, data))
        mask = data[1] & sum(1 << capability for capability in kept)
        _check(_libc.capset(header, (ctypes.c_uint32 * 6)(mask, mask)))


def _new_session_keyring() -> None:
    """What the user has in theirs (tickets, keys) is not the pod's."""
    if number := _SYS_KEYCTL.get(os.uname().machine):
        with contextlib.suppress(OSError):  # a kernel without keyrings
            _check(_libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None))


def _reset_signals() -> None:
    """Python ignores SIGPIPE, and an ignored signal stays so in the executed program."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _execute(spec: LaunchSpec, argv: list[str]) -> NoReturn:
    _reset_signals()
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


# System calls


def _mount(
    source: str | None, target: str, flags: int, *, kind: str = "", options: str = ""
) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target)]
    _check(
        _libc.mount(
            *arguments,
            kind.encode() or None,
            ctypes.c_ulong(flags),
            os.fsencode(options) or None,
        )
    )


def _move_mount(tree: int, target: str) -> None:
    flags = _MOVE_MOUNT_F_EMPTY_PATH
    _check(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), flags))


class _MountAttr(ctypes.Structure):
    """``struct mount_attr`` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _set_read_only(path: str, *, recursive: bool = True) -> None:
    _set_read_only_at(_AT_FDCWD, path, recursive=recursive)


def _set_read_only_at(at: int, path: str, *, recursive: bool) -> None:
    attributes = _MountAttr(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    flags = (0 if path else _AT_EMPTY_PATH) | (_AT_RECURSIVE if recursive else 0)
    _check(
        _libc.syscall(
            _SYS_MOUNT_SETATTR, at, os.fsencode(path), flags, ctypes.byref(attributes), size
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
