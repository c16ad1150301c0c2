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

from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from troth.mesh.model import Pod

_UID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
# Static pods' UIDs are hashes without dashes.
_POD = re.compile(rf"^(?:kubepods.*-)?pod(?P<uid>{_UID}|[0-9a-f]{{32}})(?:\.slice)?$")


def pod_uid(cgroup: str) -> str | None:
    """The UID of the pod that a process belongs to.

    Args:
        cgroup: The content of ``/proc/PID/cgroup``.

    Returns:
        The UID as the kubelet has it, or None for a process that is no pod's.
    """
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        # The innermost name counts: a node may itself be a pod, as with kind.
        for name in reversed(path.split("/")):
            if found := _POD.match(name):
                return found["uid"].replace("_", "-")
    return None


def node_namespaces(proc: Path = Path("/proc")) -> frozenset[int]:
    """Numbers of the agent's own network namespace and the node's, which may be the same one.

    A process that is still on its way into its pod is there, and such a namespace is never a pod's.

    Args:
        proc: Where the node's processes are seen.

    Raises:
        EnvironmentLackError: One of them can't be seen.
    """
    return frozenset({_inode(proc / "self"), _inode(proc / "1")})


def network_namespaces(
    pods: Iterable[Pod], proc: Path = Path("/proc")
) -> Mapping[str, tuple[Path, ...]]:
    """Find what may be the pods' network namespaces.

    A process's cgroup is a hint and no proof: a container may have made namespaces of its own, and
    one that can make cgroups gives them whatever name it likes. So whoever captures one of these
    sees first that the pod's addresses are there. The node's own namespace is never among them.

    Args:
        pods: The pods to look for; host-network pods must not be among them.
        proc: Where the node's processes are seen.

    Returns:
        For each pod that has processes now, an ``ns/net`` for each of their namespaces. The paths
        are good for as long as the processes live, so pin them at once.

    Raises:
        EnvironmentLackError: Which namespace is the node's own can't be seen.
    """
    never = node_namespaces(proc)
    by_name = {pod.kubelet_uid or pod.uid: pod.uid for pod in pods}
    found: dict[str, dict[int, Path]] = {}
    for process in _processes(proc):
        try:
            name = pod_uid((process / "cgroup").read_text())
            uid = by_name.get(name or "")
            if uid is None:
                continue
            namespace = process / "ns" / "net"
            inode = namespace.stat().st_ino
        except OSError:
            continue  # it has ended
        if inode not in never:
            found.setdefault(uid, {}).setdefault(inode, namespace)
    return {uid: tuple(namespaces.values()) for uid, namespaces in found.items()}


def _processes(proc: Path) -> Iterator[Path]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            yield entry


def _inode(process: Path) -> int:
    try:
        return (process / "ns" / "net").stat().st_ino
    except OSError as error:
        raise EnvironmentLackError(
            f"which network namespace is the node's own can't be seen: {error}",
            "run as root with the node's PIDs in view and CAP_SYS_PTRACE",
        ) from error
