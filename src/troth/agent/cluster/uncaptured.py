"""Pods of the mesh that run without being captured, or captured without their clients being told.

Such a pod is in the node's report, and so in the status of its policies; an Event on it says so;
and if that is asked for, it is evicted, so that another one takes its place.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from lightkube.models.core_v1 import ObjectReference

from troth.agent.cluster.eviction import Evictor, reference
from troth.agent.pods import Lack
from troth.cluster.contract import NODE_SERVICE_ACCOUNT, PodTrouble
from troth.cluster.events import Events, EventType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from troth.agent.agent import NodeAgent
    from troth.agent.proof import Restoration
    from troth.kube.client import ApiClient
    from troth.mesh.model import Pod
    from troth.mesh.world import World

_log = structlog.get_logger(__name__)

_MOST_OF_A_NAMESPACE = 3
_LONGEST_REASON = 200

_QUIET_SECONDS = 60.0
"""After an Event on what was put back in a pod: somebody may change it again and again."""

_MOST_WAITING = 256
"""Events that are still to be written."""


class UncapturedPods:
    """Tells of a node's pods that are not held to the policy, or not known to be.

    Args:
        client: Of the API server.
        node: The node's name.
        evicts: Whether those that are not captured are evicted, too.
    """

    def __init__(self, client: ApiClient, node: str, *, evicts: bool = False) -> None:
        self._node = node
        self._events = Events(client, NODE_SERVICE_ACCOUNT, node)
        self._evictor = Evictor(client, self._events) if evicts else None
        self._uncaptured: Mapping[str, str] = {}
        self._unmarked: Mapping[str, str] = {}
        self._quiet_until: dict[str, float] = {}
        self._waiting: asyncio.Queue[tuple[ObjectReference, str, str]] = asyncio.Queue(
            _MOST_WAITING
        )

    def see(
        self,
        world: World,
        agent: NodeAgent,
        *,
        problems: Mapping[str, str],
        unwritten: Mapping[str, str],
    ) -> None:
        """Take note of what is so now.

        Args:
            world: All pods.
            agent: Knows which of them are late.
            problems: Why network namespaces are not found, by UID.
            unwritten: Why marks are not written, by UID.
        """
        uncaptured = {uid: problems.get(uid, why) for uid, why in agent.late(Lack.CAPTURE).items()}
        unmarked = {
            uid: unwritten.get(uid, "the API server doesn't show its annotation")
            for uid in agent.late(Lack.MARK)
        }
        for uid in (uncaptured.keys() - self._uncaptured.keys()) & world.pods.keys():
            message = f"is in the mesh and runs without being captured: {uncaptured[uid]}"
            self._warn(world.pods[uid], "NotCaptured", message)
        for uid in (unmarked.keys() - self._unmarked.keys()) & world.pods.keys():
            message = f"is held to the policy though its clients can't be told: {unmarked[uid]}"
            self._warn(world.pods[uid], "NotMarked", message)
        self._uncaptured, self._unmarked = uncaptured, unmarked
        if self._evictor is not None:
            # One that is captured, with an old configuration, takes plaintext by the policy alone.
            bare = (uncaptured.keys() - agent.led) & world.pods.keys()
            self._evictor.want([(world.pods[uid], uncaptured[uid]) for uid in bare])

    def pause(self) -> None:
        """Leave all pods to another agent until the next `see`."""
        if self._evictor is not None:
            self._evictor.want(())

    def restored(self, world: World | None, restoration: Restoration) -> None:
        """Tell that something of a pod's capture, or of the node's rules, was put back."""
        pod = world.pods.get(restoration.pod) if world is not None else None
        now = asyncio.get_running_loop().time()
        if now < self._quiet_until.get(restoration.pod, now) or (pod is None and restoration.pod):
            return
        self._quiet_until = {uid: at for uid, at in self._quiet_until.items() if now < at}
        self._quiet_until[restoration.pod] = now + _QUIET_SECONDS
        node = ObjectReference(apiVersion="v1", kind="Node", name=self._node, uid=self._node)
        about = reference(pod) if pod is not None else node
        self._tell(about, "CaptureRestored", str(restoration))

    def uncaptured(self, world: World) -> Mapping[str, PodTrouble]:
        """For the node's report: those that are not captured."""
        return _told(world, self._uncaptured)

    def unmarked(self, world: World) -> Mapping[str, PodTrouble]:
        """For the node's report: those whose clients aren't told."""
        return _told(world, self._unmarked)

    async def run(self) -> None:
        """Write Events and evict until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._evictor is not None:
                tasks.create_task(self._evictor.run())
            while True:
                about, reason, message = await self._waiting.get()
                await self._events.record(about, EventType.WARNING, reason, message)

    def _warn(self, pod: Pod, reason: str, message: str) -> None:
        _log.warning(message, pod=str(pod))
        self._tell(reference(pod), reason, message)

    def _tell(self, about: ObjectReference, reason: str, message: str) -> None:
        if not self._waiting.full():
            self._waiting.put_nowait((about, reason, message))


def _told(world: World, reasons: Mapping[str, str]) -> Mapping[str, PodTrouble]:
    """By pods' names, a few of each namespace."""
    told: dict[str, PodTrouble] = {}
    of: dict[str, int] = {}
    for pod in sorted((world.pods[uid] for uid in reasons.keys() & world.pods.keys()), key=str):
        of[pod.namespace] = of.get(pod.namespace, 0) + 1
        if of[pod.namespace] <= _MOST_OF_A_NAMESPACE:
            why = reasons[pod.uid][:_LONGEST_REASON]
            told[str(pod)] = PodTrouble(why=why, policies=frozenset(_policies_of(world, pod)))
    return told


def _policies_of(world: World, pod: Pod) -> Iterator[str]:
    """The policies that hold for a pod in any scope."""
    for policy in world.policies:
        if policy.namespace == pod.namespace:
            is_its = policy.selector.items() <= pod.labels.items()
        else:
            is_its = policy.namespace == world.root_namespace and not policy.selector
        if is_its:
            yield policy.key
