"""Tells whether troth is being removed from the cluster, or an agent only restarts."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth.errors import TrothError
from troth.kube.errors import NotFoundError
from troth.kube.follow import Followed
from troth.kube.resource import ObjectKind, Resource, reader
from troth.kube.wire import decode

if TYPE_CHECKING:
    from troth.kube.client import ApiClient

_log = structlog.get_logger(__name__)

_NAME = "troth-node"
_ANSWER_SECONDS = 3.0


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    deletion_timestamp: datetime | None = None


class _DaemonSet(msgspec.Struct, frozen=True):
    metadata: _Metadata


_KIND = ObjectKind(kind="DaemonSet", plural="daemonsets", group="apps", shape=_DaemonSet)


class Removal:
    """Follows the DaemonSet that the agent is of.

    An agent without one (`troth node` started by hand) is never removed in this sense. The watch
    tells of the end also where the agent's rights end with it, as what is open stays open.

    Args:
        client: Of the API server.
        namespace: The DaemonSet's.

    Attributes:
        begun: Set while it is deleted, or about to be.
        averted: Set while it isn't.
    """

    def __init__(self, client: ApiClient, *, namespace: str) -> None:
        self.begun, self.averted = asyncio.Event(), asyncio.Event()
        self.averted.set()
        self._client = client
        self._namespace = namespace
        self._was_there = False
        self._followed = Followed(
            client,
            Resource(
                plural="daemonsets",
                group="apps",
                read=reader("DaemonSet", _read),
                namespace=namespace,
                field_selector=f"metadata.name={_NAME}",
            ),
            on_change=self._look,
        )

    async def run(self) -> None:
        """Follow it until cancelled."""
        await self._followed.run()

    async def ask(self) -> bool:
        """Whether it is so, at the agent's end; False if that can't be said."""
        if self.begun.is_set() or not self._was_there:
            return self.begun.is_set()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                found = await self._client.get(_KIND, _NAME, self._namespace)
        except NotFoundError:
            return True
        except (TrothError, TimeoutError) as error:
            _log.warning("whether troth is being removed is not known", reason=str(error))
            return False
        return _is_deleted(found)

    def _look(self) -> None:
        found = self._followed.objects.values()
        self._was_there = self._was_there or bool(found)
        # One that was deleted may be made again, and take the agents over that are left of it.
        if self._was_there and all(map(_is_deleted, found)):
            self.averted.clear()
            self.begun.set()
        else:
            self.begun.clear()
            self.averted.set()


def _read(raw: msgspec.Raw) -> _DaemonSet:
    return decode(raw, _DaemonSet)


def _is_deleted(found: _DaemonSet) -> bool:
    return found.metadata.deletion_timestamp is not None
