"""One kind of object kept up to date: the I/O of a `Reflector`."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from troth.errors import TrothError
from troth.kube.errors import ExpiredError, NotServedError, RefusedError
from troth.kube.reflector import Absent, Broken, Ended, Gone, List, Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from troth.kube.client import ApiClient
    from troth.kube.reflector import Action, Changes, Event
    from troth.kube.resource import Resource

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_WATCH_SECONDS = 300.0
"""The shortest watch; others last up to twice as long, so that they don't all end together."""


class Followed(Generic[T]):
    """All objects of one kind, kept up to date.

    Args:
        client: The API server's.
        resource: What to follow.
        on_change: Called on every change, and when the view is complete.
        jitter: Random numbers from 0 up to 1.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource[T],
        *,
        on_change: Callable[[], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._jitter = jitter
        self._reflector: Reflector[T] = Reflector(jitter=jitter)
        self.resource = resource

    @property
    def objects(self) -> Mapping[str, T]:
        """By ``NAMESPACE/NAME`` or ``NAME``; for a refused object, its last good version."""
        return self._reflector.objects

    @property
    def is_synced(self) -> bool:
        """Whether the view has been complete once."""
        return self._reflector.synced

    @property
    def error(self) -> TrothError | None:
        """Why it isn't up to date; None if it is."""
        return self._reflector.error

    async def run(self) -> None:
        """Follow until cancelled; errors of the API server are logged and retried."""
        await keep(
            self._reflector,
            self._client,
            self.resource,
            on_change=lambda _: self._on_change(),
            on_trouble=lambda _: None,
            jitter=self._jitter,
        )


async def keep(
    reflector: Reflector[T],
    client: ApiClient,
    resource: Resource[T],
    *,
    on_change: Callable[[Changes[T]], None],
    on_trouble: Callable[[TrothError | None], None],
    jitter: Callable[[], float],
) -> None:
    """Keep a view up to date until cancelled; errors of the API server are retried.

    Args:
        reflector: The view.
        client: The API server's.
        resource: What to follow.
        on_change: Called on every change, and when the view is complete.
        on_trouble: Called with the reason why the view isn't up to date, and with None when it is
            again. Both are logged, too.
        jitter: Random numbers from 0 up to 1.
    """
    clock = asyncio.get_running_loop().time
    action = reflector.start()
    told = ""
    while True:
        await asyncio.sleep(action.after)
        async with aclosing(events(client, resource, action, jitter=jitter)) as happening:
            async for event in happening:
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


async def events(
    client: ApiClient, resource: Resource[T], action: Action, *, jitter: Callable[[], float]
) -> AsyncGenerator[Event[T], None]:
    """The events of a list or watch; the last one is its outcome, errors included."""
    try:
        if isinstance(action, List):
            yield await client.list(resource, since=action.since)
            return
        seconds = _WATCH_SECONDS * (1 + jitter())
        async with aclosing(client.watch(resource, action.version, seconds=seconds)) as watched:
            async for event in watched:
                yield event
    except ExpiredError:
        yield Gone()
    except NotServedError as error:
        yield Absent() if resource.is_optional else Broken(error)
    except TrothError as error:
        yield Broken(error, error.retry_after if isinstance(error, RefusedError) else 0.0)
    else:
        yield Ended()


def _log_trouble(resource: Resource[T], trouble: str) -> None:
    if trouble:
        _log.warning("can't follow the cluster", resource=str(resource), reason=trouble)
    else:
        _log.info("follows the cluster again", resource=str(resource))
