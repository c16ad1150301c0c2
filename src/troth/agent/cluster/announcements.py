"""Pods whose sandboxes the CNI plugin tells of, before the API server tells of their addresses.

Such a pod has no process yet, and no client. It gets none of either before the plugin is answered:
so by then it is captured and all may know, and nobody has to be lenient with it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.agent.cluster.cni import CniVerdict
from troth.agent.pod_namespaces import node_namespaces
from troth.errors import TrothError
from troth.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from troth.agent.cluster.cni import CniQuestion
    from troth.agent.pod_namespaces import Pins
    from troth.mesh.model import Pod
    from troth.mesh.world import World

_NOT_TOLD = "the API server has not told of the pod yet"


class Waiting(msgspec.Struct, frozen=True):
    """There is no verdict about a pod yet.

    Attributes:
        verdict: The one that there is when the time is up.
    """

    verdict: CniVerdict


class _Announced:
    """A sandbox.

    Attributes:
        before: The pod's addresses in the API when it was announced, of an earlier sandbox.
        source: A descriptor of its network namespace, until that is held.
    """

    def __init__(self, question: CniQuestion, source: int) -> None:
        self.question = question
        self.source: int | None = source
        self.inode = os.fstat(source).st_ino
        self.before: tuple[str, ...] | None = None
        self.refusal = ""
        self.waiting = CniVerdict("unknown", _NOT_TOLD)
        self.settled: asyncio.Future[CniVerdict] = asyncio.get_running_loop().create_future()

    def settle(self, verdict: CniVerdict) -> None:
        if not self.settled.done():
            self.settled.set_result(verdict)

    def close(self) -> None:
        if self.source is not None:
            os.close(self.source)
            self.source = None

    def is_in(self, held: Path) -> bool:
        """Whether a network namespace is the sandbox's, by the name that `Pins` gives it."""
        return held.name.endswith(f".{self.inode}")

    def over(self, pod: Pod) -> Pod:
        """The pod as it is, where the API server is behind."""
        addresses = self.question.addresses
        return msgspec.structs.replace(
            pod, addresses=addresses, captured=pod.captured_at == addresses, ready=False
        )


class Announcements:
    """The newest sandboxes of pods, as far as the API server doesn't tell of them yet.

    Args:
        on_change: Called when there is something to look at.
    """

    def __init__(self, *, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._announced: dict[str, _Announced] = {}

    def over(self, world: World) -> World:
        """What is so, given what the API server says; forgets what that says by now."""
        changed = {}
        for uid, each in list(self._announced.items()):
            pod = world.pods.get(uid)
            if pod is None:
                if each.before is not None:  # it was there
                    self._forget(uid, "the pod is gone")
                continue
            if each.before is None or not pod.addresses:
                each.before = pod.addresses
            caught_up = pod.addresses == each.question.addresses and each.settled.done()
            if pod.addresses != each.before or caught_up:
                self._forget(uid, "the pod has other addresses meanwhile")
                continue
            changed[uid] = each.over(pod)
        if not changed:
            return world
        pods: Mapping[str, Pod] = _changed(world.pods, changed)
        return msgspec.structs.replace(world, pods=pods)

    async def announce(self, question: CniQuestion, namespace: int) -> CniVerdict:
        """Have a pod captured; returns when it is, or isn't to be, or the time is up.

        Args:
            question: The plugin's.
            namespace: A descriptor of the sandbox's network namespace; it is copied.
        """
        uid = question.pod.uid
        if not question.addresses:
            return CniVerdict("refused", "the network has given the pod no address")
        if os.fstat(namespace).st_ino in await asyncio.to_thread(node_namespaces):
            return CniVerdict("out", "the sandbox is on the node's own network")
        self._forget(uid, "the pod has a newer sandbox")
        announced = self._announced[uid] = _Announced(question, os.dup(namespace))
        self._on_change()
        try:
            async with asyncio.timeout(question.seconds):
                verdict = await asyncio.shield(announced.settled)
        except TimeoutError:
            verdict = announced.waiting
        if verdict.verdict != "captured":
            self._forget(uid, verdict.why, announced)
            self._on_change()
        return verdict

    def forget(self, question: CniQuestion) -> None:
        """Take note that a sandbox is no more."""
        announced = self._announced.get(question.pod.uid)
        if announced is not None and announced.question.sandbox == question.sandbox:
            self._forget(question.pod.uid, "its sandbox is no more")
            self._on_change()

    def hold(self, pins: Pins, world: World, wanted: frozenset[str]) -> None:
        """Hold on to the network namespaces of those that are to be captured."""
        for uid, each in self._announced.items():
            if each.source is None or uid not in wanted:
                continue
            try:
                held = pins.hold(world.pods[uid], Path(f"/proc/self/fd/{each.source}"))
                if not each.is_in(held):
                    each.refusal = "the sandbox's network namespace doesn't have its addresses"
            except TrothError as error:
                each.refusal = str(error)
            each.close()

    def awaited(self, held: Mapping[str, Path]) -> Mapping[str, Path]:
        """The network namespaces in which nothing runs before there is a verdict, by UID.

        Args:
            held: Where pods' network namespaces are, as of `Pins.held`.
        """
        return {
            uid: held[uid]
            for uid, each in self._announced.items()
            if not each.settled.done() and uid in held and each.is_in(held[uid])
        }

    def look(self, judge: Callable[[str, int], CniVerdict | Waiting]) -> None:
        """Answer where there is an answer.

        Args:
            judge: Called with a pod's UID and the number of its network namespace.
        """
        for uid, each in self._announced.items():
            if each.settled.done():
                continue
            verdict = judge(uid, each.inode)
            if isinstance(verdict, Waiting):
                each.waiting = verdict.verdict
                if each.refusal:
                    each.settle(CniVerdict("refused", each.refusal))
            else:
                each.settle(verdict)

    def close(self) -> None:
        """Let go of all."""
        for uid in list(self._announced):
            self._forget(uid, "the agent ends")

    def _forget(self, uid: str, why: str, which: _Announced | None = None) -> None:
        announced = self._announced.get(uid)
        if announced is None or (which is not None and announced is not which):
            return
        del self._announced[uid]
        announced.settle(CniVerdict("refused", why))
        announced.close()


def _changed(pods: Mapping[str, Pod], changed: Mapping[str, Pod]) -> Mapping[str, Pod]:
    return pods.changed(changed) if isinstance(pods, Table) else {**pods, **changed}
