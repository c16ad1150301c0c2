"""What a node answers the CNI plugin about its pods, by what it has heard of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
from lightkube import KubeConfig

from troth.agent.cluster.announcements import Waiting
from troth.agent.cluster.cni import CniVerdict
from troth.agent.cluster.node import ClusterNode
from troth.agent.cluster.settings import NodeSettings
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import Namespace, Pod
from troth.mesh.world import World

if TYPE_CHECKING:
    from troth.agent.agent import NodeAgent
    from troth.agent.pod_namespaces import Pins

POD = Pod(uid="a", namespace="shop", name="web", node="node-1", addresses=("10.0.0.7",))
DOMAIN = TrustDomain.parse("cluster.local")


def verdict(world: World | None) -> CniVerdict | Waiting:
    config = KubeConfig.from_server("http://127.0.0.1:1").get()
    assert config is not None
    node = ClusterNode(config, NodeSettings(node_name="node-1", trust_domain=DOMAIN))
    node.world = world
    nobody = object()  # no agent is asked about any of these
    return node._judge(cast("NodeAgent", nobody), cast("Pins", nobody), "a", 1)


async def test_a_pod_of_a_namespace_that_is_not_known_yet_is_not_out_of_the_mesh() -> None:
    world = World(trust_domain=DOMAIN, pods={"a": POD})
    unknown = "the API server has not told of its namespace yet"
    assert verdict(world) == Waiting(CniVerdict("unknown", unknown))
    known = msgspec.structs.replace(world, namespaces={"shop": Namespace(name="shop")})
    out = verdict(known)
    assert isinstance(out, CniVerdict)
    assert out.verdict == "out"


async def test_nothing_is_said_of_a_pod_that_is_not_known_or_is_another_nodes() -> None:
    elsewhere = msgspec.structs.replace(POD, node="node-2")
    unknown = Waiting(CniVerdict("unknown", "the API server has not told of the pod yet"))
    for world in (
        None,
        World(trust_domain=DOMAIN),
        World(trust_domain=DOMAIN, pods={"a": elsewhere}),
    ):
        assert verdict(world) == unknown
