"""What a `Reflector` wants done at an API server is done here: lists, watches and waits."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

import structlog

from troth.sources._reflector import List

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from troth.errors import TrothError
    from troth.sources._api_server import ApiServer, Resource
    from troth.sources._reflector import Action, Changes, Event, Reflector

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_WATCH_SECONDS = 300.0
"""How long a watch lasts at least; up to twice as long, so that they don't all end together."""


async def keep(
    reflector: Reflector[T],
    server: ApiServer,
    resource: Resource[T],
    *,
    on_change: Callable[[Changes[T]], None],
    on_trouble: Callable[[TrothError | None], None],
    jitter: Callable[[], float],
) -> None:
    """Keep a view up to date until cancelled; no error of the API server ends it.

    Args:
        reflector: The view.
        server: Where.
        resource: What.
        on_change: Called when something has changed, and when all there is is known.
        on_trouble: Called with what keeps the view from being up to date, and with None when
            nothing does any more. It is logged, too.
        jitter: Random numbers from 0 up to 1.
    """
    clock = asyncio.get_running_loop().time
    action = reflector.start()
    told = ""
    while True:
        await asyncio.sleep(action.after)
        async with aclosing(_events(server, resource, action, jitter)) as events:
            async for event in events:
                was_synced = reflector.synced
                step = reflector.step(event, clock())
                if step.changes or reflector.synced is not was_synced:
                    on_change(step.changes)
                if (trouble := str(reflector.error or "")) != told:
                    told = trouble
                    _log_trouble(resource, trouble)
                    on_trouble(reflector.error)
                if step.action is not None:
                    action = step.action
                    break


async def _events(
    server: ApiServer, resource: Resource[T], action: Action, jitter: Callable[[], float]
) -> AsyncGenerator[Event[T], None]:
    if isinstance(action, List):
        yield await server.list(resource, since=action.since)
        return
    seconds = _WATCH_SECONDS * (1 + jitter())
    async with aclosing(server.watch(resource, action.version, seconds=seconds)) as events:
        async for event in events:
            yield event


def _log_trouble(resource: Resource[T], trouble: str) -> None:
    if trouble:
        _log.warning("can't follow the cluster", resource=str(resource), reason=trouble)
    else:
        _log.info("follows the cluster again", resource=str(resource))
