"""One kind of object, followed by itself: for those who need one and not a whole cluster."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from troth.errors import PeerError, Problem
from troth.sources._api_server import Resource
from troth.sources._json import decode
from troth.sources._keeping import keep
from troth.sources._reflector import Item, Reflector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from troth.errors import TrothError
    from troth.sources._api_server import ApiServer

T = TypeVar("T")


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
        await keep(
            self._reflector,
            self._server,
            self.resource,
            on_change=lambda _: self._on_change(),
            on_trouble=lambda _: None,
            jitter=self._jitter,
        )


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
