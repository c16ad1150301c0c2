"""What is known of a node's own pods before all of the cluster is.

To list a big mesh takes an agent a second and more. Its own pods are a small answer, and to have
their certificates signed takes time, too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from troth.errors import TrothError
from troth.kube.reflector import ANY_VERSION
from troth.mesh.world import World
from troth.sources.kubernetes import NAMESPACES, PODS

if TYPE_CHECKING:
    from troth.cluster.settings import NodeSettings
    from troth.kube.client import ApiClient


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
