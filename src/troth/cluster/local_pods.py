"""Which of a cluster's pods are a node agent's business: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth._table import Table, difference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.mesh.model import Pod
    from troth.mesh.world import World


class LocalPods(msgspec.Struct, frozen=True, kw_only=True):
    """A node's pods that run, or are about to, in network namespaces of their own, by UID.

    Attributes:
        wanted: Those in the mesh: they are to be captured.
        others: Those that are not.
    """

    wanted: frozenset[str]
    others: frozenset[str]


class LocalPodsKeeper:
    """Tells the pods of a node that are in the mesh from those that aren't.

    Pods on the node's own network are in neither; nor are those that have ended, or have no
    address (any more): nothing can be said of their connections.

    Args:
        node: The node's name.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._known: Mapping[str, Pod] = Table()
        self._mine: dict[str, Pod] = {}

    def update(self, world: World) -> LocalPods:
        """Those of ``world``; looks at the pods that have changed and the node's own."""
        changes = difference(self._known, world.pods)
        self._known = world.pods
        for uid in (*changes.removed, *changes.upserted):
            self._mine.pop(uid, None)
        for uid, pod in changes.upserted.items():
            if pod.node == self._node and _can_be_captured(pod):
                self._mine[uid] = pod
        wanted = frozenset(uid for uid, pod in self._mine.items() if world.membership(pod).in_mesh)
        return LocalPods(wanted=wanted, others=frozenset(self._mine) - wanted)


def _can_be_captured(pod: Pod) -> bool:
    return bool(pod.addresses) and not pod.host_network and not pod.phase.is_final
