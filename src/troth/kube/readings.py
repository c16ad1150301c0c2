"""Lists of the Kubernetes API, read once for a person; what he may not read is noted."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.errors import EnvironmentLackError, Problem
from troth.kube.reflector import Absent, Broken, Listed

if TYPE_CHECKING:
    from troth.errors import TrothError
    from troth.kube.client import ApiServer
    from troth.kube.reflector import Event
    from troth.kube.resource import Item, Resource

T = TypeVar("T")


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """What may not be read.

    Attributes:
        resource: As RBAC names it, with its group: ``deployments.apps``.
        namespace: The only one asked for; empty for all.
        error: Which permission is missing.
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
        if resource.name:
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
    namespace = resource.place
    role = f"Role in namespace {namespace}" if namespace else "ClusterRole"
    lack = error.lack if isinstance(error, EnvironmentLackError) else str(error)
    remedy = (
        f"have it given by a {role}: apiGroups [{resource.group!r}], "
        f"resources [{resource.plural!r}], verbs [{verb!r}]"
    )
    return Unreadable(
        resource=str(resource), namespace=namespace, error=EnvironmentLackError(lack, remedy)
    )
