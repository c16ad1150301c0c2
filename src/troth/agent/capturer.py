"""Captures and releases a node's pods as their records require (see `troth.agent.pods`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from troth.agent.capture import capture, release
from troth.agent.pods import Action, PodEvent
from troth.agent.sockets import connected_ports, listening_ports
from troth.errors import PeerError, TrothError
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from troth.agent.admission import AdmissionLimits
    from troth.agent.pods import Pods
    from troth.mesh.model import Pod
    from troth.mesh.ports import PortSet

_log = structlog.get_logger(__name__)

_LISTENING_SECONDS = 2.0
"""How long Envoy may take until it listens in a pod: it took listeners, then fetches secrets."""

_LOOK_SECONDS = 0.02
"""How soon that is looked at again, at first; then after half of the time that it has taken."""

_RETRY_SECONDS = 2.0
"""How soon a pod that could not be captured is retried."""

_AT_ONCE = 4
"""How many pods are captured at a time: each starts a program and waits for it."""

_DRAIN_LOOK_SECONDS = 1.0
"""How often released pods are checked for remaining connections."""


class Capturer:
    """Captures and releases the pods of a node.

    Args:
        pods: Their records.
        ports: Where the agent's Envoy listens in every pod.
        admission: As of `capture`.
    """

    def __init__(
        self,
        pods: Pods,
        *,
        ports: PortSet = PORT_SETS[0],
        admission: AdmissionLimits | None = None,
    ) -> None:
        self._pods, self._ports, self._admission = pods, ports, admission
        self._deaf: dict[Path, float] = {}  # since when, by network namespace
        self._looked_at = 0.0

    def see(
        self,
        wanted: Mapping[str, Path | None],
        pods: Mapping[str, Pod],
        *,
        announced: Mapping[str, Path] = {},
    ) -> None:
        """Take note of what is so now; arguments as of `Pods.see`."""
        for uid, netns in self._pods.netns.items():
            if uid not in wanted and not netns.exists():
                self._pods.happened(uid, PodEvent.ENDED)
        self._pods.see(wanted, pods, _now(), announced=announced)

    async def act(
        self, served: Collection[str], reasons: Mapping[str, str], *, probes: bool = False
    ) -> bool:
        """Do what the pods' stages ask for, now that Envoy has all listeners.

        Args:
            served: The pods that Envoy has listeners for.
            reasons: Why others can't be captured, by UID.
            probes: As of `capture`, also for those that are captured already.

        Returns:
            Whether Envoy needs another push, because listeners change as a result.
        """
        pods = self._pods
        refused = {uid: reasons[uid] for uid in reasons.keys() & pods.wanted}
        # They stay with this agent's Envoy even if that doesn't listen at the moment.
        refused |= await self.lead(pods.exempting(probes=not probes), probes=probes)
        due = pods.due(Action.CAPTURE) | pods.led_elsewhere
        refused |= await self._capture((due & set(served)) - refused.keys(), probes=probes)
        for uid, reason in refused.items():
            if pods.refused.get(uid) != reason:
                _log.warning("a pod is not captured", pod=uid, reason=reason)
        pods.refuse(refused)
        released, ended = await self._release(), await self._let_go()
        # Not before Envoy accepts plaintext for leaving pods.
        pods.show()
        pods.note_time(_now())
        return released or ended

    def next_look(self) -> float | None:
        """When to check again without an event, by the event loop's clock."""
        moments = [self._pods.next_change, self.next_ear]
        if self._pods.refused:
            moments.append(_now() + _RETRY_SECONDS)
        if self._pods.due(Action.LOOK_FOR_CONNECTIONS):
            moments.append(_now() + _DRAIN_LOOK_SECONDS)
        return min((moment for moment in moments if moment is not None), default=None)

    async def connected(self) -> bool:
        """Whether any connection of any pod goes through Envoy."""
        for netns in tuple(self._pods.netns.values()):
            if await self._has_connections(netns):
                return True
        return False

    @property
    def next_ear(self) -> float | None:
        """When to look again whether Envoy listens; None if there is no pod where it soon may.

        The other pods don't wait for one where it doesn't.
        """
        taken = self._looked_at - max(self._deaf.values(), default=-_LISTENING_SECONDS)
        if taken >= _LISTENING_SECONDS:
            return None
        return self._looked_at + max(_LOOK_SECONDS, taken / 2)

    async def not_listening(self, uids: Collection[str]) -> set[str]:
        """Those where Envoy doesn't listen yet, where traffic will be led to; see `next_ear`."""
        netns = self._pods.netns
        deaf = await self._deaf_of(uids)
        now = self._looked_at = _now()
        self._deaf = {netns[uid]: self._deaf.get(netns[uid], now) for uid in deaf}
        return deaf

    async def not_listening_any_more(self, uids: Collection[str]) -> set[str]:
        """Those where Envoy doesn't listen where traffic is led to, nor within the next moments."""
        deadline = _now() + _LISTENING_SECONDS
        while True:
            deaf = await self._deaf_of(uids)
            if not deaf or _now() >= deadline:
                return deaf
            await asyncio.sleep(_LOOK_SECONDS)

    async def _deaf_of(self, uids: Collection[str]) -> set[str]:
        netns = self._pods.netns
        return {uid for uid in uids if not await self._listens(netns[uid])}

    async def _capture(self, uids: Collection[str], *, probes: bool) -> dict[str, str]:
        deaf = await self.not_listening(uids)
        netns = self._pods.netns
        refused = {
            uid: "Envoy does not listen in its network namespace yet"
            for uid in deaf
            if self._looked_at >= self._deaf[netns[uid]] + _LISTENING_SECONDS
        }
        return refused | await self.lead(set(uids) - deaf, probes=probes)

    async def lead(self, uids: Iterable[str], *, probes: bool) -> dict[str, str]:
        """Redirect pods to this agent's Envoy, listening or not; return failures by UID."""
        refused = {}
        netns = self._pods.netns
        slots = asyncio.Semaphore(_AT_ONCE)

        async def lead(uid: str) -> None:
            try:
                async with slots:
                    await capture(netns[uid], self._ports, probes=probes, admission=self._admission)
            except TrothError as error:
                refused[uid] = str(error)
            else:
                self._pods.led(uid, exempts=probes)

        async with asyncio.TaskGroup() as tasks:
            for uid in uids:
                tasks.create_task(lead(uid))
        return refused

    async def _release(self) -> bool:
        due = self._pods.due(Action.RELEASE)
        for uid in due:
            try:
                await release(self._pods.netns[uid], self._ports)
            except TrothError as error:
                # A pod that ended meanwhile took its rules with it.
                _log.info("released a pod without removing its rules", pod=uid, reason=str(error))
            self._pods.happened(uid, PodEvent.UNDONE)
        return bool(due)

    async def _let_go(self) -> bool:
        """Drop released pods without connections; return whether there were any."""
        netns = self._pods.netns
        due = self._pods.due(Action.LOOK_FOR_CONNECTIONS)
        idle = {uid for uid in due if not await self._has_connections(netns[uid])}
        for uid in idle:
            self._pods.happened(uid, PodEvent.IDLE)
        return bool(idle)

    async def _listens(self, netns: Path) -> bool:
        try:
            ports = await asyncio.to_thread(listening_ports, netns)
        except PeerError:
            return False  # the pod has ended
        return ports.issuperset(self._ports)

    async def _has_connections(self, netns: Path) -> bool:
        try:
            ports = await asyncio.to_thread(connected_ports, netns)
        except PeerError:
            return False
        return not ports.isdisjoint(self._ports)


def _now() -> float:
    return asyncio.get_running_loop().time()
