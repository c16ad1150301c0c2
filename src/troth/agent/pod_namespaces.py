"""Finds the network namespaces of a node's pods, and keeps them under names for Envoy.

They are found by the pod's UID in the cgroups of its processes. A kubelet names a pod's cgroup
after its UID, in one of two ways: its cgroupfs driver as
``kubepods/burstable/pod<UID>/<container>``, its systemd driver as
``kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID_>.slice/...`` with underscores
for the UID's dashes. The line formats of ``/proc/PID/cgroup`` are cgroups(7)'s: one line for cgroup
v2, one per hierarchy for v1.

The result may be wrong, and by the time that Envoy opens it the process may have ended and its PID
been reused. So a namespace is pinned by a bind mount, and only if it has the pod's own addresses:
capturing another one would give its processes the pod's identity. The mount's name contains the
namespace's number: a pod with a recreated sandbox gets another name, so Envoy sees the change.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import structlog

from troth.agent import netns
from troth.agent.netlink import addresses
from troth.errors import EnvironmentLackError, PeerError, TrothError
from troth.mesh.model import Pod
from troth.program import woken
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Finder: TypeAlias = Callable[[Collection[Pod]], Awaitable[Mapping[str, Collection[Path]]]]
"""Returns candidates for pods' network namespaces, by UID."""

_log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 0.1
_LONGEST_RETRY_SECONDS = 2.0
"""Between looks for namespaces that are still to come: a sandbox is made soon after binding."""

_REVIEW_SECONDS = 30.0
"""How often all are looked at again, because a sandbox can be replaced."""

_UID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
# Static pods' UIDs are hashes without dashes.
_POD = re.compile(rf"^(?:kubepods.*-)?pod(?P<uid>{_UID}|[0-9a-f]{{32}})(?:\.slice)?$")


def pod_uid(cgroup: str) -> str | None:
    """The UID of the pod that a process belongs to.

    Args:
        cgroup: The content of ``/proc/PID/cgroup``.

    Returns:
        The UID in the kubelet's form, or None for a process outside all pods.
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

    A process that has not entered its pod yet is in one of them, and neither is ever a pod's.

    Args:
        proc: A procfs of the node's processes.

    Raises:
        EnvironmentLackError: One of them can't be seen.
    """
    return frozenset({_inode(proc / "self"), _inode(proc / "1")})


def network_namespaces(
    pods: Iterable[Pod], proc: Path = Path("/proc")
) -> Mapping[str, tuple[Path, ...]]:
    """Find candidates for the pods' network namespaces.

    A process's cgroup is a hint, not a proof: a container may have created namespaces of its own,
    and one that can create cgroups can give them any name. So before capturing one of these, the
    caller checks that it has the pod's addresses. The node's own namespace is never among them.

    Args:
        pods: The pods to look for, without host-network pods.
        proc: A procfs of the node's processes.

    Returns:
        For each pod that has processes now, an ``ns/net`` for each of their namespaces. The paths
        are valid as long as the processes live, so pin them at once.

    Raises:
        EnvironmentLackError: The node's own namespace can't be identified.
    """
    never = node_namespaces(proc)
    by_name = {pod.kubelet_uid or pod.uid: pod.uid for pod in pods}
    found: dict[str, dict[int, Path]] = {}
    for process in processes(proc):
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


def processes(proc: Path) -> Iterator[Path]:
    """The node's processes, as directories of procfs (proc(5))."""
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


async def find_by_cgroup(pods: Collection[Pod]) -> Mapping[str, Collection[Path]]:
    """Find pods' namespaces by their processes; a `Finder` without a container runtime."""
    return await asyncio.to_thread(network_namespaces, pods)


class Pins:
    """Finds and pins the network namespaces of wanted pods.

    Args:
        directory: For the mounts; nothing else may be in it.
        finder: Returns candidates.
        on_change: Called when a namespace was found or has changed, and when `problems` change.
    """

    def __init__(
        self, directory: Path, *, finder: Finder = find_by_cgroup, on_change: Callable[[], None]
    ) -> None:
        self._directory = directory
        self._finder = finder
        self._on_change = on_change
        self._wanted: frozenset[str] = frozenset()
        self._pods: Mapping[str, Pod] = {}
        self._held: dict[str, Path] = {}
        self._problems: dict[str, str] = {}
        self._sought: frozenset[str] = frozenset()
        self._woken = asyncio.Event()

    @property
    def held(self) -> Mapping[str, Path]:
        """The paths of the pinned namespaces, by pod UID."""
        return self._held

    @property
    def missing(self) -> frozenset[str]:
        """The pods whose namespaces have not been found yet."""
        return self._wanted - self._held.keys()

    @property
    def problems(self) -> Mapping[str, str]:
        """Why candidates are unusable, by the UIDs of pods without a pinned namespace."""
        return {uid: self._problems[uid] for uid in self.missing if self._problems.get(uid)}

    @property
    def sought(self) -> frozenset[str]:
        """The pods that were looked for at least once."""
        return self._sought

    def start(self) -> None:
        """Remove what an earlier agent left behind.

        Raises:
            EnvironmentLackError: There can't be mounts in the directory.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self._directory.iterdir():
            netns.remove(stale)

    def want(self, uids: Collection[str], pods: Mapping[str, Pod]) -> None:
        """Pin the namespaces of exactly these pods, as soon as they are found.

        Args:
            uids: The pods.
            pods: Known pods, by UID; others are not looked for.
        """
        uids = frozenset(uids)
        for gone in self._held.keys() - uids:
            netns.remove(self._held.pop(gone))
        if uids - self._wanted:
            self._woken.set()
        self._wanted, self._pods = uids, pods
        self._problems = {uid: self._problems[uid] for uid in uids & self._problems.keys()}

    def hold(self, pod: Pod, source: Path) -> Path:
        """Hold on to a namespace that was found already.

        Raises:
            PeerError: It is there no more.
        """
        self._wanted |= {pod.uid}
        self._pin(pod, source)
        if pod.uid not in self._held:
            raise PeerError(f"network namespace of pod {pod}", "can't be held")
        return self._held[pod.uid]

    async def find(self, pods: Iterable[Pod]) -> Mapping[str, Path]:
        """Where the namespaces of these pods are now, without pinning them.

        Raises:
            EnvironmentLackError: The node's own namespace can't be identified.
        """
        sought = {pod.uid: pod for pod in pods if pod.addresses}
        found = await self._finder(tuple(sought.values()))
        judged = await asyncio.to_thread(
            lambda: {uid: _judge(pod, found.get(uid, ())) for uid, pod in sought.items()}
        )
        for uid, (_, problem) in judged.items():
            self._problems[uid] = problem
        return {uid: place for uid, (place, _) in judged.items() if place is not None}

    async def run(self) -> None:
        """Look for missing ones, until cancelled; raises like `find`."""
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        while True:
            before = self.problems
            pods = {uid: self._pods[uid] for uid in self._wanted & self._pods.keys()}
            held = dict(self._held)
            found = await self.find(pods.values())
            # What was held meanwhile is of a newer sandbox than what was found.
            changed = {
                self._pin(pods[uid], source)
                for uid, source in found.items()
                if self._held.get(uid) == held.get(uid)
            }
            is_first = not pods.keys() <= self._sought
            self._sought = frozenset(pods)
            if True in changed or is_first or before != self.problems:
                self._on_change()
            if await woken(self._woken, backoff.next() if self.missing else _REVIEW_SECONDS):
                self._woken.clear()
                backoff.reset()

    def close(self) -> None:
        """Unpin all."""
        self.want((), {})

    def _pin(self, pod: Pod, source: Path) -> bool:
        """Pin a namespace unless it is pinned; return whether anything has changed."""
        uid = pod.uid
        if uid not in self._wanted:  # meanwhile
            return False
        try:
            path = self._directory / f"{uid}.{netns.inode(source)}"
            former = self._held.get(uid)
            if former == path:
                return False
            netns.pin(source, path)
        except PeerError:
            return False  # the process has ended; another one may be found
        except TrothError as error:
            _log.error("a pod's network namespace can't be held", pod=uid, reason=str(error))
            return False
        if not _is_of(pod, path):  # the PID has become another's
            netns.remove(path)
            return False
        self._held[uid] = path
        if former is not None:
            netns.remove(former)
        return True


def _judge(pod: Pod, places: Collection[Path]) -> tuple[Path | None, str]:
    """The one namespace with the pod's addresses; else the problem with the candidates."""
    genuine = [place for place in places if _is_of(pod, place)]
    if len(genuine) == 1:
        return genuine[0], ""
    if genuine:
        return None, "several network namespaces have its addresses"
    lack = f"no network namespace of its processes has the addresses {', '.join(pod.addresses)}"
    return None, lack if places else ""


def _is_of(pod: Pod, place: Path) -> bool:
    try:
        return addresses(place) >= set(pod.addresses)
    except TrothError:
        return False
