"""Holds on to the network namespaces of a node's pods, under names that Envoy can open.

A pod's namespace is found by the pod's processes, which may be gone and their PIDs another's by the
time that Envoy opens it. So it is pinned by a bind mount. The mount's name has the namespace's own
number in it: a pod whose sandbox was made anew gets another name, which Envoy takes for the change
that it is.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from troth.errors import PeerError, TrothError
from troth.node import netns, network_namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 0.05
_LONGEST_RETRY_SECONDS = 2.0
"""Between looks for namespaces that are still to come: a sandbox is made soon after binding."""

_REVIEW_SECONDS = 30.0
"""How often all are looked at again, because a sandbox can be made anew."""


class Pins:
    """Finds and pins the network namespaces of the pods that it is told of.

    Args:
        directory: For the mounts; nothing else may be in it.
        on_change: Called when a namespace was found or has changed.
        proc: Where the node's processes are seen.
    """

    def __init__(
        self, directory: Path, *, on_change: Callable[[], None], proc: Path = Path("/proc")
    ) -> None:
        self._directory = directory
        self._on_change = on_change
        self._proc = proc
        self._wanted: frozenset[str] = frozenset()
        self._held: dict[str, Path] = {}
        self._woken = asyncio.Event()

    @property
    def held(self) -> Mapping[str, Path]:
        """Where the namespaces are that have been found, by pod UID."""
        return self._held

    @property
    def missing(self) -> frozenset[str]:
        """The pods whose namespaces have not been found yet."""
        return self._wanted - self._held.keys()

    def start(self) -> None:
        """Remove what an earlier agent left behind.

        Raises:
            EnvironmentLackError: There can't be mounts in the directory.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self._directory.iterdir():
            netns.remove(stale)

    def want(self, uids: Collection[str]) -> None:
        """Hold on to the namespaces of exactly these pods, as soon as they are found."""
        uids = frozenset(uids)
        for gone in self._held.keys() - uids:
            netns.remove(self._held.pop(gone))
        if uids - self._wanted:
            self._woken.set()
        self._wanted = uids

    def hold(self, uid: str, source: Path) -> Path:
        """Hold on to a namespace that was found already.

        Raises:
            PeerError: It is there no more.
        """
        self._wanted |= {uid}
        self._pin(uid, source)
        if uid not in self._held:
            raise PeerError(f"network namespace of pod {uid}", "can't be held")
        return self._held[uid]

    async def find(self, uids: Collection[str]) -> Mapping[str, Path]:
        """Where the namespaces of these pods are now; nothing is pinned."""
        return await asyncio.to_thread(network_namespaces, uids, self._proc)

    async def run(self) -> None:
        """Look for what is missing, until cancelled."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            found = await self.find(self._wanted)
            changed = {self._pin(uid, source) for uid, source in found.items()}
            if True in changed:
                self._on_change()
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)
            try:
                async with asyncio.timeout(pause if self.missing else _REVIEW_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                continue
            self._woken.clear()
            pause = _FIRST_RETRY_SECONDS

    def close(self) -> None:
        """Let go of all."""
        self.want(())

    def _pin(self, uid: str, source: Path) -> bool:
        """Pin a namespace unless it is already; whether anything has changed."""
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
        self._held[uid] = path
        if former is not None:
            netns.remove(former)
        return True
