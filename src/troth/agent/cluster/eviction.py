"""Evicts pods that the agent can't capture, seldom enough that a broken node does little harm.

A pod that is evicted is mostly made again, perhaps on the same node, where it can't be captured
either. So one is evicted at a time, and after each the agent waits, twice as long as the last time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from lightkube.models.core_v1 import ObjectReference

from troth.cluster.events import EventType
from troth.errors import TrothError
from troth.kube.errors import BusyError, ConflictError, NotFoundError
from troth.kube.kinds import RAW_POD
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from troth.cluster.events import Events
    from troth.kube.client import ApiClient
    from troth.mesh.model import Pod

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_SECONDS = 600.0
"""After an eviction; after twice as long without one it begins with the first again."""

_GRACE_SECONDS = 20.0
"""How long a pod has been wanted to go when it is evicted."""

_REFUSED_SECONDS = 10.0
"""How soon a pod is tried again that could not be evicted."""

_LOOK_SECONDS = 1.0


class Evictor:
    """Evicts pods one after another. Needs the right to create evictions of pods.

    Args:
        client: Of the API server.
        events: Where evictions are told.
    """

    def __init__(self, client: ApiClient, events: Events) -> None:
        self._client = client
        self._events = events
        self._wanted: Sequence[tuple[Pod, str]] = ()
        self._due: dict[str, float] = {}
        self._woken = asyncio.Event()

    def want(self, pods: Iterable[tuple[Pod, str]]) -> None:
        """Have these pods evicted, and no others, each with why; those that end already are."""
        self._wanted = [(pod, why) for pod, why in pods if not pod.terminating]
        at = asyncio.get_running_loop().time() + _GRACE_SECONDS
        self._due = {pod.uid: self._due.get(pod.uid, at) for pod, _ in self._wanted}
        if self._wanted:
            self._woken.set()

    async def run(self) -> None:
        """Evict until cancelled."""
        backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        loop = asyncio.get_running_loop()
        evicted_at = loop.time()
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._wanted:
                pod, why = min(self._wanted, key=lambda each: self._due[each[0].uid])
                now = loop.time()
                if now < self._due[pod.uid]:
                    await asyncio.sleep(min(_LOOK_SECONDS, self._due[pod.uid] - now))
                    continue
                self._due[pod.uid] = now + _REFUSED_SECONDS
                if not await self._evict(pod, why):
                    continue  # it keeps no other pod from being evicted
                if loop.time() >= evicted_at + 2 * _LONGEST_PAUSE_SECONDS:
                    backoff.reset()
                evicted_at = loop.time()
                await asyncio.sleep(backoff.next())

    async def _evict(self, pod: Pod, why: str) -> bool:
        """Evict a pod, or tell why that can't be; whether it goes."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        try:
            await self._client.create(RAW_POD, eviction, pod.namespace, pod.name, "eviction")
        except (NotFoundError, ConflictError):
            return False  # it is gone, or another one by now
        except TrothError as error:
            reason = "EvictionRefused"
            message = f"is not captured ({why}), and can't be evicted: {error}"
            if isinstance(error, BusyError):
                message = f"is not captured ({why}), and may not be evicted now: {error.reason}"
            done = False
        else:
            reason, message, done = "Evicted", f"is evicted because it is not captured: {why}", True
        _log.warning(message, pod=str(pod))
        await self._events.record(reference(pod), EventType.WARNING, reason, message)
        return done


def reference(pod: Pod) -> ObjectReference:
    """A pod as an Event names it."""
    return ObjectReference(
        apiVersion="v1", kind="Pod", namespace=pod.namespace, name=pod.name, uid=pod.uid
    )
