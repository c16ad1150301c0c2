"""Which network namespace is a pod's: found by the pod's UID in the cgroups of its processes.

A kubelet names a pod's cgroup after its UID, in one of two ways: its cgroupfs driver as
``kubepods/burstable/pod<UID>/<container>``, its systemd driver as
``kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID_>.slice/...`` with underscores
for the UID's dashes. The line formats of ``/proc/PID/cgroup`` are cgroups(7)'s: one line for cgroup
v2, one per hierarchy for v1.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_UID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
# Mirror pods' UIDs are hashes without dashes.
_POD = re.compile(rf"^(?:kubepods.*-)?pod(?P<uid>{_UID}|[0-9a-f]{{32}})(?:\.slice)?$")


def pod_uid(cgroup: str) -> str | None:
    """The UID of the pod that a process belongs to.

    Args:
        cgroup: The content of ``/proc/PID/cgroup``.

    Returns:
        The UID as the API has it, or None for a process that is no pod's.
    """
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        # The innermost name counts: a node may itself be a pod, as with kind.
        for name in reversed(path.split("/")):
            if found := _POD.match(name):
                return found["uid"].replace("_", "-")
    return None


def network_namespaces(uids: Iterable[str], proc: Path = Path("/proc")) -> Mapping[str, Path]:
    """Find the pods' network namespaces.

    Args:
        uids: The pods to look for; host-network pods must not be among them.
        proc: Where the node's processes are seen.

    Returns:
        For each pod that has a process now, that process's ``ns/net``. The path is good for as
        long as the process lives, so pin it at once.
    """
    wanted = set(uids)
    found: dict[str, Path] = {}
    # The agent's own namespace and the node's, which may be the same one.
    never = {None, _inode(proc / "self"), _inode(proc / "1")}
    for process in _processes(proc):
        if not wanted - found.keys():
            break
        try:
            uid = pod_uid((process / "cgroup").read_text())
        except OSError:
            continue  # it has ended
        # A process that is still on its way into the pod is in the node's namespace.
        if uid in wanted and uid not in found and _inode(process) not in never:
            found[uid] = process / "ns" / "net"
    return found


def _processes(proc: Path) -> Iterator[Path]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            yield entry


def _inode(process: Path) -> int | None:
    try:
        return (process / "ns" / "net").stat().st_ino
    except OSError:
        return None
