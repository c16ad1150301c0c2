"""One kind of object, followed by itself: for those who need one and not a whole cluster."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import structlog

from troth.errors import PeerError, Problem
from troth.sources._api_server import Resource
from troth.sources._json import decode
from troth.sources._reflector import Item, List, Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from troth.errors import TrothError
    from troth.sources._api_server import ApiServer
    from troth.sources._reflector import Action, Event

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_WATCH_SECONDS = 300.0


class NamespacedResource(Resource[T], frozen=True, kw_only=True):
    """The objects of one namespace, so that a Role is enough to follow them."""

    namespace: str

    @property
    def scope(self) -> str:
        """Where its objects are, in words that follow a verb."""
        return f"in namespace {self.namespace}"

    def path(self, version: str) -> str:
        """Its URL's path."""
        prefix, slash, plural = super().path(version).rpartition("/")
        return f"{prefix}/namespaces/{self.namespace}{slash}{plural}"


class Followed(Generic[T]):
    """What there is of one kind.

    Args:
        server: Where.
        resource: What.
        on_change: Called when something has changed, and when all there is is known.
        jitter: Random numbers from 0 up to 1.
    """

    def __init__(
        self,
        server: ApiServer,
        resource: Resource[T],
        *,
        on_change: Callable[[], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._server = server
        self._on_change = on_change
        self._jitter = jitter
        self._reflector: Reflector[T] = Reflector(jitter=jitter)
        self._logged = ""
        self.resource = resource

    @property
    def objects(self) -> Mapping[str, T]:
        """By ``NAMESPACE/NAME`` or ``NAME``; of an object that is refused the last good version."""
        return self._reflector.objects

    @property
    def is_synced(self) -> bool:
        """Whether all there is has been known once."""
        return self._reflector.synced

    @property
    def error(self) -> TrothError | None:
        """What keeps it from being up to date."""
        return self._reflector.error

    async def run(self) -> None:
        """Follow until cancelled; no error of the API server ends it, but it is logged."""
        clock = asyncio.get_running_loop().time
        action = self._reflector.start()
        while True:
            await asyncio.sleep(action.after)
            async with aclosing(self._events(action)) as events:
                async for event in events:
                    was_synced = self._reflector.synced
                    step = self._reflector.step(event, clock())
                    if step.changes or self._reflector.synced is not was_synced:
                        self._on_change()
                    self._log_error()
                    if step.action is not None:
                        action = step.action
                        break

    def _log_error(self) -> None:
        error = str(self.error or "")
        if error == self._logged:
            return
        self._logged = error
        if error:
            _log.warning("can't follow the cluster", resource=str(self.resource), reason=error)
        else:
            _log.info("follows the cluster again", resource=str(self.resource))

    async def _events(self, action: Action) -> AsyncGenerator[Event[T], None]:
        if isinstance(action, List):
            yield await self._server.list(self.resource)
            return
        seconds = _WATCH_SECONDS * (1 + self._jitter())
        watch = self._server.watch(self.resource, action.version, seconds=seconds)
        async with aclosing(watch) as events:
            async for event in events:
                yield event


class _Header(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Headed(msgspec.Struct, frozen=True):
    metadata: _Header


def reader(
    shape: type, convert: Callable[[msgspec.Raw], T | None]
) -> Callable[[msgspec.Raw], Item[T]]:
    """Make a `Resource.read` of a function that reads one object.

    Args:
        shape: Names the kind in messages.
        convert: Gives what the object means, or None if it is of no interest; what it raises of
            msgspec's errors refuses that one object.
    """

    def read(raw: msgspec.Raw) -> Item[T]:
        try:
            header = decode(raw, _Headed).metadata
        except msgspec.DecodeError as error:
            raise PeerError(
                "the API server", f"sent a {shape.__name__} that has no usable metadata: {error}"
            ) from error
        key = f"{header.namespace}/{header.name}" if header.namespace else header.name
        value: T | None = None
        problems: tuple[Problem, ...] = ()
        try:
            value = convert(raw)
        except msgspec.DecodeError as error:
            problem = Problem(
                subject=f"{shape.__name__} {key}",
                path="",
                found=f"is not what the API has there: {error}",
                wanted="write it as the API documents it",
            )
            problems = (problem,)
        return Item(
            key=key, uid=header.uid, version=header.resource_version, value=value, problems=problems
        )

    return read


def model_reader(model: type[T]) -> Callable[[msgspec.Raw], Item[T]]:
    """A `Resource.read` that gives objects as lightkube's model of their kind."""
    return reader(model, lambda raw: decode(raw, model))
