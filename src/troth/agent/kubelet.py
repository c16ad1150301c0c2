"""Finds a node's kubelet, so that no other connection is mistaken for a probe.

The kubelet is the process that listens on its port (``KubeletConfiguration.port``) in the node's
own network namespace, as root and outside all containers' cgroups, of pods or others. Distributions
name the program differently (k3s, kubelite); the port is the same. Its cgroup distinguishes its
sockets from those of others.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from troth.agent.netns import call_in_cgroups
from troth.agent.pod_namespaces import pod_uid, processes
from troth.agent.sockets import listening_inodes
from troth.errors import TrothError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_log = structlog.get_logger(__name__)

PORT = 10250
NODE_CGROUPS = Path("/proc/1/ns/cgroup")
"""The cgroup namespace of the node's first process."""

_CONTAINER = re.compile(r"[/-][0-9a-f]{64}(\.scope)?$")
_INITIAL_CGROUP_NAMESPACE = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO of linux/proc_ns.h


class Cgroup(NamedTuple):
    """A cgroup (v2) in the form of nftables' ``socket cgroupv2``.

    Attributes:
        number: Its directory's inode.
        level: How many directories it is below the hierarchy's root.
    """

    number: int
    level: int


class KubeletProcess(NamedTuple):
    """A node's kubelet.

    Attributes:
        pid: Its process ID in the agent's namespace.
        cgroup: None if it can't identify the kubelet: that is in the root of cgroup v2, there is no
            cgroup v2, or the node is itself a container.
    """

    pid: int
    cgroup: Cgroup | None


def find_kubelet(proc: Path = Path("/proc"), *, port: int = PORT) -> KubeletProcess | None:
    """The node's kubelet; None if none listens.

    Args:
        proc: A procfs of the node's processes, its first one as ``1``.
        port: Where the kubelet listens.
    """
    try:
        inodes = listening_inodes(proc / "1" / "ns" / "net", port)
    except TrothError as error:
        _log.warning("the kubelet can't be looked for", reason=str(error))
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    if wanted:
        for process in _host_processes(proc):
            if _has_open(process, wanted):
                return KubeletProcess(int(process.name), _cgroup(process, proc / "1"))
    return None


def _host_processes(proc: Path) -> Iterator[Path]:
    """Processes of root that are in no container, of a pod or otherwise."""
    for process in processes(proc):
        try:
            status = (process / "status").read_text("utf-8", "replace")
            cgroup = (process / "cgroup").read_text("utf-8")
        except OSError:
            continue  # it has ended
        if _is_roots(status) and pod_uid(cgroup) is None and not _is_contained(cgroup):
            yield process


def _is_roots(status: str) -> bool:
    """Whether all of a process's users are root, by ``/proc/PID/status``.

    Not by the owner of ``/proc/PID``, which is root for whatever can't be dumped.
    """
    uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    return set(uids) == {"0"}


def _is_contained(cgroup: str) -> bool:
    """Whether a process's own cgroup is named as those of container runtimes, by their IDs."""
    paths = (line.split(":", 2)[-1] for line in cgroup.splitlines())
    return any(_CONTAINER.search(path) for path in paths)


def _has_open(process: Path, wanted: Collection[str]) -> bool:
    try:
        with os.scandir(process / "fd") as descriptors:
            return any(str(Path(each).readlink()) in wanted for each in descriptors)
    except OSError:
        return False  # it has ended, or has just closed a file


def _cgroup(process: Path, first: Path) -> Cgroup | None:
    """The cgroup of a process of the node, whose first process is another one."""
    try:
        if (first / "ns" / "cgroup").stat().st_ino != _INITIAL_CGROUP_NAMESPACE:
            return None  # kernels differ in how they count levels there
        path = call_in_cgroups(first / "ns" / "cgroup", lambda: _unified_path(process))
        mounted = _unified_mount((first / "mountinfo").read_text("utf-8"))
        if not path or mounted is None:
            return None
        folder = first / "root" / mounted.lstrip("/") / path
        return Cgroup(folder.stat().st_ino, len(path.split("/")))
    except OSError:
        return None


def _unified_path(process: Path) -> str:
    """A process's cgroup (v2), relative to the hierarchy's root; empty in the root itself."""
    for line in (process / "cgroup").read_text("utf-8").splitlines():
        if line.startswith("0::/"):
            return line.removeprefix("0::/")
    return ""


def _unified_mount(mounts: str) -> str | None:
    """Where the whole of cgroup v2 is mounted, by the lines of ``mountinfo`` (proc(5))."""
    for line in mounts.splitlines():
        place, _, source = line.partition(" - ")
        _, _, _, root, point, *_ = place.split()
        if source.startswith("cgroup2 ") and root == "/":
            return point
    return None
