"""Holds on to the network namespaces of a node's pods, under names that Envoy can open.

Whoever finds a pod's namespace may be wrong, and by the time that Envoy opens it the process that
led to it may be gone and its PID another's. So a namespace is pinned by a bind mount, and only if
it has the pod's own addresses: to capture another one would give its processes the pod's identity.
The mount's name has the namespace's own number in it: a pod whose sandbox was made anew gets
another name, which Envoy takes for the change that it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import structlog

from troth.agent import netns
from troth.agent.addresses import addresses
from troth.agent.discover import network_namespaces
from troth.errors import PeerError, TrothError
from troth.mesh.model import Pod
from troth.program import woken
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable

Finder: TypeAlias = Callable[[Collection[Pod]], Awaitable[Mapping[str, Collection[Path]]]]
"""Tells what may be pods' network namespaces, by UID."""

_log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 0.1
_LONGEST_RETRY_SECONDS = 2.0
"""Between looks for namespaces that are still to come: a sandbox is made soon after binding."""

_REVIEW_SECONDS = 30.0
"""How often all are looked at again, because a sandbox can be made anew."""


async def find_by_cgroup(pods: Collection[Pod]) -> Mapping[str, Collection[Path]]:
    """Find pods' namespaces by their processes; the `Finder` that needs nobody's help."""
    return await asyncio.to_thread(network_namespaces, pods)


class Pins:
    """Finds and pins the network namespaces of the pods that it is told of.

    Args:
        directory: For the mounts; nothing else may be in it.
        finder: Knows where to look.
        on_change: Called when a namespace was found or has changed, and when `problems` have.
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
        """Where the namespaces are that have been found, by pod UID."""
        return self._held

    @property
    def missing(self) -> frozenset[str]:
        """The pods whose namespaces have not been found yet."""
        return self._wanted - self._held.keys()

    @property
    def problems(self) -> Mapping[str, str]:
        """Why what was found is not to be used, by the UIDs of pods of which nothing is held."""
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
        """Hold on to the namespaces of exactly these pods, as soon as they are found.

        Args:
            uids: The pods.
            pods: What is known of pods, by UID; one that isn't known is not looked for.
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
        """Where the namespaces of these pods are now; nothing is pinned.

        Raises:
            EnvironmentLackError: The node's namespaces can't be told apart.
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
        """Look for what is missing, until cancelled; raises as `find` does."""
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        while True:
            before = self.problems
            pods = {uid: self._pods[uid] for uid in self._wanted & self._pods.keys()}
            found = await self.find(pods.values())
            changed = {self._pin(pods[uid], source) for uid, source in found.items()}
            is_first = not pods.keys() <= self._sought
            self._sought = frozenset(pods)
            if True in changed or is_first or before != self.problems:
                self._on_change()
            if await woken(self._woken, backoff.next() if self.missing else _REVIEW_SECONDS):
                self._woken.clear()
                backoff.reset()

    def close(self) -> None:
        """Let go of all."""
        self.want((), {})

    def _pin(self, pod: Pod, source: Path) -> bool:
        """Pin a namespace unless it is already; whether anything has changed."""
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
    """The one namespace that has the pod's addresses; else what is wrong with those there are."""
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
