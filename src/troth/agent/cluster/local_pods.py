"""Which of a cluster's pods are a node agent's business, and what is known of them early: pure.

To list a big mesh takes an agent a second and more. Its own pods are a small answer, and to have
their certificates signed takes time, too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from troth.cluster.state import NAMESPACES, PODS
from troth.errors import TrothError
from troth.kube.reflector import ANY_VERSION
from troth.mesh.world import World
from troth.table import Table, difference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.agent.cluster.settings import NodeSettings
    from troth.kube.client import ApiClient
    from troth.mesh.model import Pod


class LocalPods(msgspec.Struct, frozen=True, kw_only=True):
    """A node's pods that run, or are about to, in network namespaces of their own, by UID.

    Attributes:
        wanted: Those in the mesh: they are to be captured.
        others: Those that are not.
        coming: Those in the mesh that have no address yet.
        opted_out: Those that are out of the mesh though their namespace is in it, with or without
            an address.
    """

    wanted: frozenset[str]
    others: frozenset[str]
    coming: frozenset[str] = frozenset()
    opted_out: frozenset[str] = frozenset()


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
            if pod.node == self._node and not pod.host_network and not pod.phase.is_final:
                self._mine[uid] = pod
        members = frozenset(uid for uid, pod in self._mine.items() if world.membership(pod).in_mesh)
        addressed = frozenset(uid for uid, pod in self._mine.items() if pod.addresses)
        return LocalPods(
            wanted=members & addressed,
            others=addressed - members,
            coming=members - addressed,
            opted_out=frozenset(
                uid
                for uid in self._mine.keys() - members
                if _namespace_is_in(world, self._mine[uid])
            ),
        )


def _namespace_is_in(world: World, pod: Pod) -> bool:
    namespace = world.namespaces.get(pod.namespace)
    return namespace is not None and namespace.in_mesh


async def foresee(client: ApiClient, settings: NodeSettings) -> World | None:
    """The node's own pods, as the API server's cache has them, and all namespaces.

    Returns:
        What to prepare for, and not to enforce: there are no policies in it. None if something is
        in the way; who follows the cluster meets it, too, and tells of it.
    """
    own = f"spec.nodeName={settings.node_name}"
    try:
        pods, namespaces = await asyncio.gather(
            client.list(msgspec.structs.replace(PODS, field_selector=own), since=ANY_VERSION),
            client.list(NAMESPACES),
        )
    except TrothError:
        return None
    return World(
        trust_domain=settings.trust_domain,
        root_namespace=settings.root_namespace,
        namespaces={item.key: item.value for item in namespaces.items if item.value},
        pods={item.value.uid: item.value for item in pods.items if item.value},
    )
