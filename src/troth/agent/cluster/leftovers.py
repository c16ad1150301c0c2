"""Rules that an earlier agent left in pods outside of the mesh, which this one has to release.

Nobody listens behind them any more, so such a pod is cut off. This agent knows what it captured
itself, and no more: what is in another pod it has to look for. That is so with all pods outside of
the mesh when it begins, and with each one that leaves the mesh before it had taken it over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from troth.agent.capture import forget, is_captured
from troth.errors import TrothError
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from troth.agent.agent import NodeAgent
    from troth.agent.pod_namespaces import Pins
    from troth.mesh.model import Pod

_log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 0.1
_LONGEST_RETRY_SECONDS = 30.0


class Leftovers:
    """Finds pods that are to be released though the agent has never had them.

    Args:
        agent: It releases them.
        pins: Finds their network namespaces.
    """

    def __init__(self, agent: NodeAgent, pins: Pins) -> None:
        self._agent, self._pins = agent, pins
        self._wanted: frozenset[str] = frozenset()
        self._suspects: set[str] = set()
        self._others: Mapping[str, Pod] = {}
        self._woken = asyncio.Event()

    def see(self, wanted: frozenset[str], others: Mapping[str, Pod]) -> None:
        """Take note of which of the node's pods are in the mesh now, and which aren't.

        Args:
            wanted: UIDs of those that are.
            others: Those that aren't, by UID.
        """
        self._suspects = (self._suspects | self._wanted) & others.keys()
        self._wanted, self._others = wanted, others
        if self._due:
            self._woken.set()

    async def look(self, others: Mapping[str, Pod]) -> None:
        """Look into these pods, all that are outside of the mesh; another time if that fails."""
        self._others, self._suspects = others, set(others)
        await self._look(self._due)

    async def clear(self) -> None:
        """Take away what is left in released pods, as troth is removed and the agent has ended."""
        try:
            places = await self._pins.find(self._others.values())
            for place in places.values():
                if not await is_captured(place):
                    await forget(place)
        except TrothError as error:
            _log.warning("something is left in pods", reason=str(error))

    async def run(self) -> None:
        """Look into pods that leave the mesh, until cancelled."""
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        while True:
            await self._woken.wait()
            self._woken.clear()
            backoff.reset()
            while due := self._due:
                await self._look(due)
                if self._due:
                    await asyncio.sleep(backoff.next())

    @property
    def _due(self) -> frozenset[str]:
        """What the agent has itself is no suspect until it has let go of it."""
        return frozenset(self._suspects - self._agent.using)

    async def _look(self, uids: Collection[str]) -> None:
        pods = {uid: self._others[uid] for uid in uids}
        try:
            places = await self._pins.find(pods.values())
        except TrothError as error:
            _log.warning("pods' network namespaces can't be found", reason=str(error))
            return
        for uid, place in places.items():
            try:
                if await is_captured(place) and uid in self._due:
                    self._agent.adopt(uid, self._pins.hold(pods[uid], place))
            except TrothError as error:
                _log.info("a pod can't be looked into", pod=uid, reason=str(error))
            else:
                self._suspects.discard(uid)
