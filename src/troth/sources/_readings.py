"""Lists of the Kubernetes API, read once for a person; what he may not read is noted."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.errors import EnvironmentLackError, Problem
from troth.sources._followed import NamespacedResource
from troth.sources._reflector import Absent, Broken, Listed

if TYPE_CHECKING:
    from troth.errors import TrothError
    from troth.sources._api_server import ApiServer, Resource
    from troth.sources._reflector import Event, Item

T = TypeVar("T")


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """What may not be read.

    Attributes:
        resource: As RBAC names it, with its group: ``deployments.apps``.
        namespace: The only one asked for; empty for all.
        error: Which right lacks.
    """

    resource: str
    namespace: str
    error: EnvironmentLackError

    @property
    def problem(self) -> Problem:
        """The same for a report that goes on without it."""
        return Problem(
            subject=self.resource, path="", found=self.error.lack, wanted=self.error.remedy
        )


class NamedResource(NamespacedResource[T], frozen=True, kw_only=True):
    """The one Namespace object of that name; whoever may see something in it may mostly get it."""

    def path(self, version: str) -> str:
        """Its URL's path."""
        return f"/api/{version}/{self.plural}/{self.namespace}"


class Readings:
    """Reads what it may.

    Attributes:
        unreadable: What it might not read, in the order of asking.
    """

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.unreadable: list[Unreadable] = []

    async def read(self, resource: Resource[T]) -> tuple[Item[T], ...] | None:
        """All objects, or None without the right to read them.

        Raises:
            TrothError: They can't be read for another reason.
        """
        if isinstance(resource, NamedResource):
            return self._items(resource, await self._server.get(resource), "get")
        return self._items(resource, await self._server.list(resource), "list")

    def _items(
        self, resource: Resource[T], event: Event[T], verb: str
    ) -> tuple[Item[T], ...] | None:
        match event:
            case Listed():
                return event.items
            case Absent():
                return ()
            case Broken(is_forbidden=True):
                self.unreadable.append(_unreadable(resource, event.error, verb))
                return None
            case Broken():
                raise event.error
        raise AssertionError(f"a list is answered by {event}")


def _unreadable(resource: Resource[T], error: TrothError, verb: str) -> Unreadable:
    namespace = resource.namespace if isinstance(resource, NamespacedResource) else ""
    role = f"Role in namespace {namespace}" if namespace else "ClusterRole"
    lack = error.lack if isinstance(error, EnvironmentLackError) else str(error)
    remedy = (
        f"have it given by a {role}: apiGroups [{resource.group!r}], "
        f"resources [{resource.plural!r}], verbs [{verb!r}]"
    )
    return Unreadable(
        resource=str(resource), namespace=namespace, error=EnvironmentLackError(lack, remedy)
    )
