"""Lists of the Kubernetes API, read once for a person; what he may not read is noted."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.errors import EnvironmentLackError, Problem
from troth.kube.errors import ForbiddenError, NotServedError

if TYPE_CHECKING:
    from troth.kube.client import ApiClient
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

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.unreadable: list[Unreadable] = []

    async def read(self, resource: Resource[T]) -> tuple[Item[T], ...] | None:
        """All objects, or None without the right to read them.

        Raises:
            TrothError: They can't be read for another reason.
        """
        try:
            return (await self._client.list(resource)).items
        except NotServedError:
            if resource.is_optional:
                return ()
            raise
        except ForbiddenError as error:
            remedy = resource.grant("get" if resource.name else "list")
            self.unreadable.append(
                Unreadable(
                    resource=str(resource),
                    namespace=resource.place,
                    error=EnvironmentLackError(error.lack, remedy),
                )
            )
            return None
