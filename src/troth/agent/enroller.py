"""Does to a node's pods what `Enrolment` says: captures and releases them, each at its time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from troth.agent.capture import capture, release
from troth.agent.enrolment import Enrolment
from troth.agent.sockets import connected_ports, listening_ports
from troth.errors import PeerError, TrothError
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from troth.agent.strangers import StrangerLimits
    from troth.mesh.model import Pod
    from troth.mesh.ports import PortSet

_log = structlog.get_logger(__name__)

_LISTENING_SECONDS = 2.0
"""How long all may wait until Envoy listens: after it took listeners over, it fetches secrets."""

_LOOK_SECONDS = 0.02

_RETRY_SECONDS = 2.0
"""How soon a pod that could not be captured is tried again."""

_AT_ONCE = 4
"""Pods that are captured at a time: for each, a program is started and waited for."""

_DRAIN_LOOK_SECONDS = 1.0
"""How often released pods are looked at for connections that are left."""


class Enroller:
    """Captures and releases the pods of a node.

    Args:
        grace: As of `Enrolment`.
        ports: Where its Envoy listens in every pod.
        strangers: As of `capture`.

    Attributes:
        announced: UIDs of the pods that others are to be told are captured.
        refused: Why pods that should be captured are not, by UID.
    """

    def __init__(
        self,
        *,
        grace: float,
        ports: PortSet = PORT_SETS[0],
        strangers: StrangerLimits | None = None,
    ) -> None:
        self._ports, self._strangers = ports, strangers
        # Of those that are led to the own Envoy: whether with the exemption for probes.
        self._exempts: dict[str, bool] = {}
        self._pods = Enrolment(grace=grace)
        self._elsewhere: frozenset[str] = frozenset()
        self.announced: frozenset[str] = frozenset()
        self.refused: Mapping[str, str] = {}

    @property
    def netns(self) -> Mapping[str, Path]:
        """Network namespaces of all pods that need Envoy's listeners, by UID."""
        return self._pods.netns

    @property
    def lenient(self) -> frozenset[str]:
        """The pods whose plaintext passes whatever the policy says."""
        return self._pods.lenient

    @property
    def joining(self) -> frozenset[str]:
        """Of those `lenient` the ones that are in the mesh, and will not be lenient for long."""
        return self._pods.joining

    @property
    def redirected(self) -> frozenset[str]:
        """The pods whose new connections are led to Envoy."""
        return self._pods.redirected

    def adopt(self, uid: str, netns: Path) -> None:
        """Take over a pod that an earlier agent has captured."""
        self._pods.adopt(uid, netns)
        self._elsewhere |= {uid}

    def take_charge(self, joining: Collection[str] = ()) -> None:
        """Go by what another agent did meanwhile; the argument as of `Enrolment.inherit`."""
        self._pods.inherit(joining)
        self._exempts.clear()
        self._elsewhere |= self._pods.redirected
        self.announced &= self._pods.announced

    def want(self, wanted: Mapping[str, Path], pods: Mapping[str, Pod]) -> None:
        """Take note of what is so now; arguments as of `Enrolment.want`."""
        for uid, netns in self._pods.netns.items():
            if uid not in wanted and not netns.exists():
                self._pods.forget(uid)
        self._pods.want(wanted, pods, _now())

    async def act(
        self, uids: Collection[str], reasons: Mapping[str, str], *, probes: bool = False
    ) -> bool:
        """Capture and release what is due, now that Envoy has all listeners.

        Args:
            uids: The pods that Envoy has listeners of.
            reasons: Why others can't be captured, by UID.
            probes: As of `capture`, also for those that are captured already.

        Returns:
            Whether Envoy is to be told anew, because listeners are to change in consequence.
        """
        refused = {uid: reasons[uid] for uid in reasons.keys() & self._pods.wanted}
        self._elsewhere &= self._pods.redirected
        redirected = self._pods.redirected
        self._exempts = {uid: each for uid, each in self._exempts.items() if uid in redirected}
        # They stay with the own Envoy whether or not that answers just now.
        changed = {uid for uid, each in self._exempts.items() if each is not probes}
        refused |= await self._lead(changed, probes=probes)
        due = self._pods.to_capture | self._elsewhere
        refused |= await self._capture((due & set(uids)) - refused.keys(), probes=probes)
        for uid, reason in refused.items():
            if self.refused.get(uid) != reason:
                _log.warning("a pod is not captured", pod=uid, reason=reason)
        self.refused = refused
        released, drained = await self._release(), await self._forget_drained()
        # Not before Envoy lets plaintext pass to those that leave.
        self.announced = self._pods.announced
        return released or drained

    def next_look(self) -> float | None:
        """When to look again though nothing happened, by the event loop's clock."""
        moments = [self._pods.next_change]
        if self.refused:
            moments.append(_now() + _RETRY_SECONDS)
        if self._pods.draining:
            moments.append(_now() + _DRAIN_LOOK_SECONDS)
        return min((moment for moment in moments if moment is not None), default=None)

    async def connected(self) -> bool:
        """Whether any connection of any pod goes through Envoy."""
        for netns in tuple(self._pods.netns.values()):
            if await self._has_connections(netns):
                return True
        return False

    async def not_listening(self, uids: Collection[str]) -> set[str]:
        """Wait until Envoy listens where traffic will be led to; those where it still doesn't."""
        deaf = set(uids)
        deadline = _now() + _LISTENING_SECONDS
        while True:
            deaf = {uid for uid in deaf if not await self._listens(self._pods.netns[uid])}
            if not deaf or _now() > deadline:
                return deaf
            await asyncio.sleep(_LOOK_SECONDS)

    async def _capture(self, uids: Collection[str], *, probes: bool) -> dict[str, str]:
        deaf = await self.not_listening(uids)
        refused = dict.fromkeys(deaf, "Envoy does not listen in its network namespace yet")
        return refused | await self._lead(set(uids) - deaf, probes=probes)

    async def _lead(self, uids: Iterable[str], *, probes: bool) -> dict[str, str]:
        """Lead them to the own Envoy, without asking it; why that failed, by UID."""
        refused = {}
        slots = asyncio.Semaphore(_AT_ONCE)

        async def lead(uid: str) -> None:
            try:
                async with slots:
                    await capture(
                        self._pods.netns[uid],
                        self._ports,
                        probes=probes,
                        strangers=self._strangers,
                    )
            except TrothError as error:
                refused[uid] = str(error)
            else:
                self._pods.captured(uid)
                self._elsewhere -= {uid}
                self._exempts[uid] = probes

        async with asyncio.TaskGroup() as tasks:
            for uid in uids:
                tasks.create_task(lead(uid))
        return refused

    async def _release(self) -> bool:
        due = self._pods.to_release(_now())
        for uid in due:
            try:
                await release(self._pods.netns[uid], self._ports)
            except TrothError as error:
                # A pod that ended meanwhile took its rules with it.
                _log.info("released a pod without removing its rules", pod=uid, reason=str(error))
            self._pods.released(uid)
        return bool(due)

    async def _forget_drained(self) -> bool:
        now = _now()
        overdue = self._pods.drained(now)
        ended = {
            uid
            for uid in self._pods.awaiting_nobody(now)
            if uid in overdue or not await self._has_connections(self._pods.netns[uid])
        }
        for uid in ended:
            self._pods.forget(uid)
        return bool(ended)

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
