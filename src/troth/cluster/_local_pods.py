"""Which of a cluster's pods are a node agent's business: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from troth.mesh import Pod, World


class LocalPods(msgspec.Struct, frozen=True, kw_only=True):
    """A node's pods that run, or are about to, in network namespaces of their own, by UID.

    Attributes:
        wanted: Those in the mesh: they are to be captured.
        others: Those that are not.
    """

    wanted: frozenset[str]
    others: frozenset[str]


def local_pods(world: World, node: str) -> LocalPods:
    """Tell the pods of a node that are in the mesh from those that aren't.

    Pods on the node's own network are in neither; nor are those that have ended, or have no
    address (any more): nothing can be said of their connections.
    """
    mine = [pod for pod in world.pods.values() if pod.node == node and _can_be_captured(pod)]
    wanted = frozenset(pod.uid for pod in mine if world.membership(pod).in_mesh)
    return LocalPods(wanted=wanted, others=frozenset(pod.uid for pod in mine) - wanted)


def _can_be_captured(pod: Pod) -> bool:
    return bool(pod.addresses) and not pod.host_network and not pod.phase.is_final
