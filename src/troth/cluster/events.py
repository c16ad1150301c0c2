"""Kubernetes Events on the objects concerned, each told once and then only counted."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event

from troth.errors import TrothError
from troth.kube.errors import ConflictError, NotFoundError
from troth.kube.kinds import EVENT

if TYPE_CHECKING:
    from troth.kube.client import ApiClient

_log = structlog.get_logger(__name__)

_QUIET = timedelta(minutes=5)
_REMEMBERED = 4096
_LONGEST_MESSAGE = 1024
_LONGEST_PREFIX = 200


class EventType(StrEnum):
    """``type`` of an Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Events:
    """Records Events; best effort, as Events are.

    The same words on the same object become one Event, whichever replica leads, because its
    name is made from them.

    Args:
        client: Of the API server.
        component: Who records them: ``source.component``.
        host: The node where that is: ``source.host``.
    """

    def __init__(self, client: ApiClient, component: str, host: str | None = None) -> None:
        self._client = client
        self._source = EventSource(component=component, host=host)
        self._told: dict[str, tuple[int, datetime]] = {}

    async def record(
        self,
        about: ObjectReference,
        kind: EventType,
        reason: str,
        message: str,
        *,
        related: ObjectReference | None = None,
    ) -> None:
        """Tell of ``about`` that ``reason`` happened; a failure is only logged.

        Args:
            about: The object; with its ``uid``, so that `kubectl describe` finds the Event.
            kind: Whether somebody should look at it.
            reason: One word in CamelCase, for programs.
            message: For people.
            related: Another object that has to do with it.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        name = _name(about, kind, reason, message)
        count, last = self._told.pop(name, (0, now - _QUIET))
        self._told[name] = (count, last)
        if now < last + _QUIET:
            return
        self._told[name] = (count + 1, now)
        while len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]
        # Where client-go puts Events of objects outside namespaces, too.
        namespace = about.namespace or "default"
        event = Event(
            metadata=ObjectMeta(name=name, namespace=namespace),
            involvedObject=about,
            related=related,
            type=kind,
            reason=reason,
            message=message[:_LONGEST_MESSAGE],
            source=self._source,
            firstTimestamp=now,
            lastTimestamp=now,
            count=count + 1,
        )
        try:
            await self._write(event, name, namespace)
        except TrothError as error:
            _log.warning("an event was not recorded", about=about.name, reason=str(error))

    async def _write(self, event: Event, name: str, namespace: str) -> None:
        try:
            await self._client.create(EVENT, event, namespace)
        except ConflictError:
            again = {"lastTimestamp": event.lastTimestamp, "count": max(event.count or 0, 2)}
            with contextlib.suppress(NotFoundError):  # it expired between the two
                await self._client.patch(EVENT, name, again, namespace)


def _name(about: ObjectReference, kind: EventType, reason: str, message: str) -> str:
    words = "\0".join((about.uid or "", kind, reason, message))
    digest = hashlib.sha256(words.encode()).hexdigest()[:16]
    return f"{(about.name or 'object')[:_LONGEST_PREFIX].rstrip('.-')}.{digest}"
