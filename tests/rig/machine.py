"""Machines made of namespaces: what every node and the control plane of a test cluster runs on.

A `Machine` has network, mount, PID, UTS and cgroup namespaces of its own, so its processes see a
``/proc``, a ``/run``, a host name and cgroup paths as on a machine of their own, and all of it ends
with the machine. The test itself stays outside and reaches in.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.e2e.harness import PATIENCE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A process puts itself into its cgroups before it becomes what it is to be.
_IN_CGROUPS = 'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs"; shift; done; shift; exec "$@"'

# There are no name servers; asking one ends at once. (Where /etc/resolv.conf is a link into /run,
# the new /run alone sees to that.)
#
# What is written to some folders arrives on no other machine. (A mount below one of them is not to
# be seen in it; a container's /etc/hosts is such a mount.)
_OWN = ("/etc", "/opt", "/var/lib")
_FIRST_PROCESS = (
    'mount --bind "$2" /run && mkdir -m 700 /run/disk && mount -t tmpfs -o mode=755 disk /run/disk'
    " && mkdir -p /run/disk/etc && cp /etc/hosts /run/disk/etc/hosts"
    f" && for own in {' '.join(_OWN)}; do new=/run/disk$own old=/run/disk/work$own;"
    ' mkdir -p "$new" "$old" && mount -t overlay -o "lowerdir=$own,upperdir=$new,workdir=$old"'
    ' own "$own" || exit 1; done'
    " && echo nameserver 127.0.0.1 > /run/resolv.conf"
    " && { mount --bind /run/resolv.conf /etc/resolv.conf || [ ! -e /etc/resolv.conf ]; }"
    ' && hostname "$1" && ip link set lo up && exec sleep infinity'
)


class CgroupTree:
    """A cgroup hierarchy, and a part of it that is the test's own.

    Args:
        name: What to call the test's part.
        version: 2 for the unified hierarchy, 1 for systemd's named one of a hybrid machine. A
            machine with the unified hierarchy alone is used as such also when 1 is asked for.
    """

    def __init__(self, name: str, *, version: int = 2) -> None:
        found = _hierarchies()
        self.version = version if version in found else 2
        if self.version not in found:
            raise OSError("no cgroup hierarchy is mounted that a test may make groups in")
        self.root = found[self.version] / name

    def make(self, path: str) -> Path:
        """Make the group at ``path`` below the test's own part, and those above it."""
        group = self.root / path
        group.mkdir(parents=True, exist_ok=True)
        return group

    def joined(self, path: str) -> list[Path]:
        """The groups that a process joins to be in that at ``path``, made if need be."""
        return [self.make(path)]

    def members(self, path: str) -> list[int]:
        """The processes of a group, by the PIDs they have outside of machines."""
        return [int(pid) for pid in (self.root / path / "cgroup.procs").read_text().split()]

    def remove(self, path: str = "") -> None:
        """End every process below ``path`` and remove the groups."""
        remove_groups(self.root / path)


class Machine:
    """A machine made of namespaces; everything on it ends with it.

    Args:
        name: Its host name.
        directory: Where it keeps its files; ``run`` below it is its ``/run``.
        cgroup_version: See `CgroupTree`.
    """

    namespaces: tuple[str, ...] = ("--net", "--mount", "--pid", "--uts", "--cgroup")

    def __init__(self, name: str, directory: Path, *, cgroup_version: int = 2) -> None:
        self.name = name
        self.directory = directory
        self.cgroups = CgroupTree(
            f"troth-test-{name}-{uuid.uuid4().hex[:8]}", version=cgroup_version
        )

    def __enter__(self) -> Self:
        namespaces = (*self.namespaces, "--fork", "--kill-child", "--mount-proc")
        first = self._prepare()
        self._keeper = subprocess.Popen(
            in_cgroups(
                self.cgroups.joined(""),
                # Also a test that is killed leaves nothing running.
                *("setpriv", "--pdeathsig=KILL", "--"),
                *("unshare", *namespaces, "--", *first),
            )
        )
        self.pid = eventually(self._sleeper, what=f"machine {self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.kill()
        self._keeper.wait()
        self.cgroups.remove()

    @property
    def netns(self) -> Path:
        """Its network namespace, by a path that is good outside of it."""
        return Path(f"/proc/{self.pid}/ns/net")

    def path(self, path: str) -> Path:
        """Where a path of the machine is for the test."""
        return Path(f"/proc/{self.pid}/root{path}")

    def command(self, *argv: str, cgroup: str = "system.slice/test.service") -> list[str]:
        """The command line that runs ``argv`` on the machine, in a cgroup of it."""
        enter = ("nsenter", f"--target={self.pid}", *self.namespaces)
        groups = self.cgroups.joined(cgroup)
        return in_cgroups(groups, *enter, "--", *argv)

    def run(
        self, *argv: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine and wait for it."""
        options = {"capture_output": True, "text": True, "timeout": PATIENCE_SECONDS} | options
        result = subprocess.run(self.command(*argv), check=False, **options)
        assert not check or result.returncode == 0, (argv, result.returncode, result.stderr)
        return result

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command on the machine."""
        return subprocess.Popen(self.command(*argv), **options)

    def ip(self, *lines: str) -> None:
        """Run lines of `ip -batch` in the machine's network namespace."""
        ip_batch(self.netns, lines)

    def forward(self) -> None:
        """Have it pass on what is for others, as a router."""
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            file = f"/proc/sys/net/{switch}"
            self.run("sh", "-c", f"[ ! -e {file} ] || echo 1 > {file}")

    def _prepare(self) -> tuple[str, ...]:
        """Make what the machine needs; the command line of its first process."""
        run = self.directory / "run"
        run.mkdir(parents=True)
        return ("sh", "-c", _FIRST_PROCESS, "sh", self.name, str(run))

    def _sleeper(self) -> int:
        # unshare's child becomes the sleep that holds the namespaces once all is set up.
        assert self._keeper.poll() is None, f"machine {self.name} could not be made"
        return sleeping_child(self._keeper.pid)


def in_cgroups(groups: Iterable[Path], *argv: str) -> list[str]:
    """The command line that runs ``argv`` as a member of the groups."""
    return ["sh", "-c", _IN_CGROUPS, "sh", *map(str, groups), "--", *argv]


def sleeping_child(pid: int) -> int:
    """The child of a process that has become ``sleep``, or 0 while there is none."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"sleep\0"):
            return int(child)
    return 0


def remove_groups(top: Path) -> None:
    """End every process in a cgroup and those below it, and remove them."""
    for group, _, _ in os.walk(top, topdown=False):
        eventually(functools.partial(_removed, Path(group)), what=f"the end of {group}")


def _removed(group: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    # Busy as long as a process is on its way out.
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def ip_batch(netns: Path, lines: Sequence[str]) -> None:
    """Run lines of `ip -batch` in a network namespace, paths and PIDs being those outside."""
    command = ["nsenter", f"--net={netns}", "ip", "-batch", "-"]
    text = "".join(f"{line}\n" for line in lines)
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (lines, result.stderr)


def _hierarchies() -> dict[int, Path]:
    """Where the cgroup hierarchies are mounted, by version."""
    found: dict[int, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            found[2] = Path(before.split()[4])
        elif kind == "cgroup" and "name=systemd" in options:
            found[1] = Path(before.split()[4])
    return found
