"""Proof of capture: verifies and restores what redirects a pod's traffic to Envoy.

A program with CAP_NET_ADMIN in a pod's network namespace can remove the rules there or close
Envoy's sockets, even by mistake: a firewall's reload flushes all tables. Without its rules a pod
accepts plaintext under any policy, and nobody would know.

The kernel reports each change of the rules, so they are restored within a fraction of a second. It
doesn't report closed sockets. So all pods are checked periodically: that costs some 0.3 ms per pod,
because the number of the last transaction shows that no rule has changed since.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import structlog

from troth.agent.capture import expected_ruleset
from troth.agent.netns import call_in
from troth.agent.ruleset import RulesetMonitor, difference_of, generation, read_ruleset
from troth.agent.sockets import listening_ports_here
from troth.errors import TrothError
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from troth.agent.admission import AdmissionLimits
    from troth.agent.capturer import Capturer
    from troth.agent.pods import Pods
    from troth.agent.ruleset import Ruleset
    from troth.mesh.ports import PortSet

_log = structlog.get_logger(__name__)

PROOF_SECONDS = 30.0
"""How often all pods are checked."""

_PAUSE_SECONDS = 0.2
"""Between two looks: who changes the rules again and again has the agent do nothing else."""

_OUR_TABLES = b"troth"


class Part(StrEnum):
    """What was restored."""

    RULES = "rules"
    LISTENERS = "listeners"
    NODE_RULES = "node_rules"


_WORDS = {
    Part.RULES: "the rules that lead its connections to Envoy were changed, and are put back",
    Part.LISTENERS: "Envoy's sockets in it were closed, and are opened again",
    Part.NODE_RULES: "the node's own rules were changed, and are put back",
}


class Restoration(NamedTuple):
    """Something that others had changed and the agent restores.

    Attributes:
        pod: The pod's UID; empty for the node itself.
        part: The kind.
        how: The change, and who made it if known.
    """

    pod: str
    part: Part
    how: str

    def __str__(self) -> str:
        return f"{_WORDS[self.part]} ({self.how})"


class _Look(NamedTuple):
    """A pod's state."""

    generation: int
    loss: str
    listens: bool


class CaptureProof:
    """Ensures that captured pods stay captured.

    Args:
        pods: Their records.
        capturer: Restores their rules.
        ports: Where the agent's Envoy listens in every pod.
        admission: As of `troth.agent.capture.capture`.
    """

    def __init__(
        self,
        pods: Pods,
        capturer: Capturer,
        *,
        ports: PortSet = PORT_SETS[0],
        admission: AdmissionLimits | None = None,
    ) -> None:
        self._pods, self._capturer = pods, capturer
        self._ports, self._admission = ports, admission
        self._monitors: dict[str, tuple[Path, RulesetMonitor]] = {}
        self._generations: dict[str, int] = {}
        self._hinted: set[str] = set()
        self._woken = asyncio.Event()

    async def follow(self) -> None:
        """Watch exactly the pods that this agent has captured for changes."""
        led = self._pods.led_here
        for uid in [uid for uid, (path, _) in self._monitors.items() if led.get(uid) != path]:
            self._forget(uid)
        loop = asyncio.get_running_loop()
        for uid in led.keys() - self._monitors.keys():
            with contextlib.suppress(TrothError, OSError):  # what it misses is seen a little later
                monitor = await asyncio.to_thread(RulesetMonitor, led[uid], _OUR_TABLES)
                self._monitors[uid] = led[uid], monitor
                loop.add_reader(monitor.fileno(), self._notice, uid)

    def close(self) -> None:
        """Stop watching, until the next `follow`."""
        for uid in tuple(self._monitors):
            self._forget(uid)

    async def run(
        self,
        in_charge: Callable[[], AbstractAsyncContextManager[bool]],
        *,
        is_served: Callable[[], bool],
        tell: Callable[[Restoration], None],
    ) -> None:
        """Restore what others remove, until cancelled.

        Args:
            in_charge: Gives whether that is for this agent to do, while it does nothing else.
            is_served: As of `look`.
            tell: Called with what was restored.
        """
        with contextlib.closing(self):
            while True:
                uids = await self.due()
                async with in_charge() as is_ours:
                    restored = await self.look(uids, is_served=is_served) if is_ours else ()
                for each in restored:
                    tell(each)

    async def due(self) -> frozenset[str] | None:
        """Wait until there is something to look at: at these pods, or at all of them (None)."""
        await asyncio.sleep(_PAUSE_SECONDS)
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            return None
        hinted = frozenset(self._hinted)
        self._hinted.clear()
        self._woken.clear()
        return hinted

    async def look(
        self, uids: Collection[str] | None, *, is_served: Callable[[], bool]
    ) -> list[Restoration]:
        """Check pods, and restore what is not as it should be.

        Args:
            uids: The pods; None for all.
            is_served: Whether Envoy has taken its newest configuration. While it hasn't, it may
                have yet to listen.
        """
        led = self._pods.led_here
        if uids is not None:
            led = {uid: led[uid] for uid in led.keys() & uids}
        exempting = self._pods.exempting(probes=True)
        looks = await asyncio.to_thread(self._look_at, led, exempting)
        still_there = self._pods.led_here.items() & led.items()
        looks = {uid: looks[uid] for uid, _ in still_there if uid in looks}
        self._generations |= {uid: each.generation for uid, each in looks.items() if not each.loss}
        losses = {uid: look.loss for uid, look in looks.items() if look.loss}
        deaf = {uid for uid, look in looks.items() if not look.listens} if is_served() else set()
        return [
            *await self._put_back(losses, exempting),
            *await self._reopen(deaf, is_served),
        ]

    def _look_at(self, pods: Mapping[str, Path], exempting: Collection[str]) -> Mapping[str, _Look]:
        found = {}
        for uid, path in pods.items():
            known = self._generations.get(uid)
            try:
                expected = expected_ruleset(
                    self._ports, probes=uid in exempting, admission=self._admission
                )
                found[uid] = call_in(path, lambda: self._look_here(known, expected))  # noqa: B023 - called at once
            except (TrothError, OSError) as error:  # the pod has ended
                _log.debug("a pod can't be looked into", pod=uid, reason=str(error))
        return found

    def _look_here(self, known: int | None, expected: Ruleset) -> _Look:
        number = generation()
        return _Look(
            generation=number,
            loss=difference_of(expected, read_ruleset(expected)) if number != known else "",
            listens=listening_ports_here().issuperset(self._ports),
        )

    async def _put_back(
        self, losses: Mapping[str, str], exempting: Collection[str]
    ) -> list[Restoration]:
        told = []
        refused: dict[str, str] = {}
        for probes in (True, False):
            some = [uid for uid in losses if (uid in exempting) is probes]
            refused |= await self._capturer.lead(some, probes=probes)
        for uid, loss in losses.items():
            _, monitor = self._monitors.get(uid, (None, None))
            by = f", by {monitor.changed_by}" if monitor and monitor.changed_by else ""
            if uid in refused:
                self._pods.lost(uid)  # to be tried again with all that are to be captured
                _log.error("a pod's rules can't be put back", pod=uid, reason=refused[uid])
            told.append(Restoration(uid, Part.RULES, f"{loss}{by}"))
        return told

    async def _reopen(
        self, deaf: Collection[str], is_served: Callable[[], bool]
    ) -> list[Restoration]:
        deaf = await self._capturer.not_listening_any_more(self._pods.led_here.keys() & deaf)
        if not is_served():
            return []
        for uid in deaf:
            self._pods.closed(uid)
        ports = ", ".join(map(str, self._ports))
        how = f"not all of {ports} were open"
        return [Restoration(uid, Part.LISTENERS, how) for uid in deaf]

    def _notice(self, uid: str) -> None:
        _, monitor = self._monitors[uid]
        if monitor.look():
            self._hinted.add(uid)
            self._woken.set()

    def _forget(self, uid: str) -> None:
        _, monitor = self._monitors.pop(uid)
        asyncio.get_running_loop().remove_reader(monitor.fileno())
        monitor.close()
        self._generations.pop(uid, None)
