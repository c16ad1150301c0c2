"""Tells whether troth is being removed from the cluster, or another agent follows this one."""

from __future__ import annotations

import asyncio
import shutil
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth.agent import netns
from troth.errors import TrothError
from troth.kube.follow import Followed
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode

if TYPE_CHECKING:
    from pathlib import Path

    from troth.kube.client import ApiClient

_log = structlog.get_logger(__name__)

_NAME = "troth-node"
_ANSWER_SECONDS = 3.0


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    deletion_timestamp: datetime | None = None


class _Container(msgspec.Struct, frozen=True):
    args: tuple[str, ...] = ()


class _PodSpec(msgspec.Struct, frozen=True):
    containers: tuple[_Container, ...] = ()


class _Template(msgspec.Struct, frozen=True):
    spec: _PodSpec = _PodSpec()


class _Spec(msgspec.Struct, frozen=True):
    template: _Template = _Template()


class _Deletable(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()

    @property
    def is_deleted(self) -> bool:
        return self.metadata.deletion_timestamp is not None


class Removal:
    """Follows the DaemonSet that the agent is of, and its namespace.

    Both, because with a namespace go its pods first, while their DaemonSet is still there. An agent
    without a DaemonSet (`troth node` started by hand) is never removed in this sense. A watch tells
    of the end also where the agent's rights end with it, as what is open stays open.

    Args:
        client: Of the API server.
        namespace: The DaemonSet's.

    Attributes:
        begun: Set while one of them is deleted, or about to be.
        averted: Set while none is.
    """

    def __init__(self, client: ApiClient, *, namespace: str) -> None:
        self.begun, self.averted = asyncio.Event(), asyncio.Event()
        self.averted.set()
        self._client = client
        self._was_there = False
        self._namespaces = Followed(
            client,
            Resource(
                plural="namespaces",
                read=reader("Namespace", _read),
                field_selector=f"metadata.name={namespace}",
            ),
            on_change=self._look,
        )
        self._daemon_sets = Followed(
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

    @property
    def is_followed(self) -> bool:
        """Whether another agent is to come at this one's end.

        With ``maxSurge`` the DaemonSet's controller makes the next pod as soon as the one before is
        marked as deleted (``podsShouldBeOnNode``), while that still runs.
        """
        return self._was_there and not self.begun.is_set()

    def asks_for(self, flag: str) -> bool:
        """Whether the DaemonSet's next agents are started with a flag."""
        return any(
            flag in container.args
            for each in self._daemon_sets.objects.values()
            for container in each.spec.template.spec.containers
        )

    async def run(self) -> None:
        """Follow them until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._namespaces.run())
            tasks.create_task(self._daemon_sets.run())

    async def ask(self) -> bool:
        """Whether it is so, at the agent's end; False if that can't be said."""
        if self.begun.is_set() or not self._was_there:
            return self.begun.is_set()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                for followed in (self._namespaces, self._daemon_sets):
                    listed = await self._client.list(followed.resource)
                    if all(
                        item.value is not None and item.value.is_deleted for item in listed.items
                    ):
                        return True
        except (TrothError, TimeoutError) as error:
            _log.warning("whether troth is being removed is not known", reason=str(error))
        return False

    def _look(self) -> None:
        found = self._daemon_sets.objects.values()
        self._was_there = self._was_there or bool(found)
        deleted = all(each.is_deleted for each in found)
        namespace_goes = any(each.is_deleted for each in self._namespaces.objects.values())
        # One that was deleted may be made again, and take the agents over that are left of it.
        if self._was_there and (deleted or namespace_goes):
            self.averted.clear()
            self.begun.set()
        else:
            self.begun.clear()
            self.averted.set()


def _read(raw: msgspec.Raw) -> _Deletable:
    return decode(raw, _Deletable)


def clear_away(run_dir: Path) -> None:
    """Delete what agents left in their directory: the last one ends, and troth is removed.

    The directory itself may be where the node's is mounted.
    """
    try:
        for pin in run_dir.glob("agents/*/netns/*"):
            netns.remove(pin)
        for each in run_dir.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    except (OSError, TrothError) as error:
        _log.warning("files of the agents stay", path=str(run_dir), reason=str(error))
