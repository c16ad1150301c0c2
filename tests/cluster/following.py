"""A cluster as `follow` tells of it, for tests to wait on."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from troth.cluster.state import follow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from lightkube import SingleConfig

    from troth.cluster.world import ClusterState
    from troth.errors import TrothError


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what only a look can tell; the test's timeout ends what never comes."""
    while not condition():  # noqa: ASYNC110 - there is nothing that could set an event
        await asyncio.sleep(0.01)


class Following:
    """What `follow` has yielded and complained of."""

    def __init__(self, config: SingleConfig, node_name: str | None) -> None:
        self.troubles: list[Mapping[str, TrothError]] = []
        self.states = follow(
            config, node_name=node_name, on_trouble=self.troubles.append, jitter=lambda: 0.0
        )

    async def until(self, condition: Callable[[ClusterState], bool]) -> ClusterState:
        """The next state that is as it should be; the test's timeout ends what never comes."""
        async for state in self.states:
            if condition(state):
                return state
        raise AssertionError("it ended")

    async def until_trouble(self, resource: str) -> TrothError:
        """The next complaint about ``resource``."""
        waiting = asyncio.ensure_future(anext(self.states))
        try:
            await eventually(lambda: any(resource in each for each in self.troubles))
            assert not waiting.done()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return next(each[resource] for each in self.troubles if resource in each)


@asynccontextmanager
async def following(
    config: SingleConfig, node_name: str | None = None
) -> AsyncGenerator[Following, None]:
    """Follow, with the shortest delays."""
    followed = Following(config, node_name)
    async with aclosing(followed.states):
        yield followed
