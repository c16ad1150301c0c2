"""Whose turn it is with a node's pods: the agent's before, this one's, or the next one's."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from troth.agent.cluster.handover import Successors, take_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from troth.agent.agent import NodeAgent
    from troth.agent.cluster.slots import Place
    from troth.traffic.connection import Connection

_log = structlog.get_logger(__name__)

_DRAIN_LOOK_SECONDS = 1.0
"""How often one that is to end looks for connections that are left."""


class Charge:
    """Has an agent take charge of its node when it can, and hand it over to whoever asks.

    Args:
        agent: The agent, standing by.
        place: Its place, and that of the other one.

    Attributes:
        prepared: To be set when the agent can serve all.
        mine: Set while the agent is in charge.
        others: Set when another one is, and the agent has been.
    """

    def __init__(self, agent: NodeAgent, place: Place) -> None:
        self.prepared = asyncio.Event()
        self.mine = asyncio.Event()
        self.others = asyncio.Event()
        self._agent = agent
        self._place = place
        self._successors = Successors(self)

    @property
    def is_awaited(self) -> bool:
        """Whether the agent has yet to be in charge."""
        return not (self.mine.is_set() or self.others.is_set())

    async def run(self, adopt: Callable[[], Awaitable[None]]) -> None:
        """Take charge, and hand over when somebody asks, until cancelled.

        Args:
            adopt: Finds what an earlier agent left behind, just before.
        """
        async with self._successors.served(self._place.own.handover):
            predecessor = await take_over(self._place.other, self.prepared.wait)
            await adopt()
            self.take_charge(predecessor.handover.joining if predecessor else ())
            if predecessor is not None:
                with contextlib.closing(predecessor):
                    async for connection in predecessor.connections():
                        self._agent.note(connection)
            await asyncio.get_running_loop().create_future()

    async def drained(self, seconds: float) -> None:
        """Wait for as long as the agent's end would cut connections though another one is there.

        Args:
            seconds: The longest time.
        """
        if not self._successors.are_there:
            return
        _log.info("waiting for connections to end", seconds=seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.mine.is_set() or await self._agent.connected():  # noqa: ASYNC110 - sockets tell nobody
                    await asyncio.sleep(_DRAIN_LOOK_SECONDS)

    def take_charge(self, joining: Iterable[str] = ()) -> None:
        """Be in charge from now on; the argument as of `NodeAgent.take_charge`."""
        self.mine.set()
        self.others.clear()
        self._agent.take_charge(joining)

    async def step_back(self, tell: Callable[[Connection], None]) -> frozenset[str]:
        """Be in charge no more; as `NodeAgent.step_back`."""
        joining = await self._agent.step_back(tell)
        self.mine.clear()
        self.others.set()
        return joining
