"""Which pods are a node's to capture; no cluster is needed for that."""

from __future__ import annotations

import msgspec
import pytest

from troth.agent.cluster.local_pods import LocalPodsKeeper
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import Namespace, Pod, PodPhase
from troth.mesh.world import World

POD = Pod(uid="a", namespace="shop", name="a", node="node-1", addresses=("10.0.0.1",))
MESH = Namespace(name="shop", labels={"troth.dev/mesh": "enabled"})


def world(pod: Pod, namespace: Namespace = MESH) -> World:
    return World(
        trust_domain=TrustDomain.parse("cluster.local"),
        namespaces={namespace.name: namespace},
        pods={pod.uid: pod},
    )


@pytest.mark.parametrize(
    ("change", "wanted", "other"),
    [
        pytest.param({}, True, False, id="in the mesh"),
        pytest.param({"ready": True}, True, False, id="in use"),
        pytest.param({"terminating": True}, True, False, id="terminating"),
        pytest.param({"phase": PodPhase.PENDING}, True, False, id="with an address, but pending"),
        pytest.param({"labels": {"troth.dev/mesh": "disabled"}}, False, True, id="opted out"),
        pytest.param({"node": "node-2"}, False, False, id="another node's"),
        pytest.param({"node": ""}, False, False, id="not scheduled"),
        pytest.param({"host_network": True}, False, False, id="on the node's network"),
        pytest.param({"phase": PodPhase.SUCCEEDED}, False, False, id="completed"),
        pytest.param({"phase": PodPhase.FAILED}, False, False, id="failed"),
        pytest.param({"addresses": ()}, False, False, id="without an address"),
    ],
)
def test_a_pod_of_the_node_with_a_network_of_its_own_is_captured_if_it_is_in_the_mesh(
    *, change: dict[str, object], wanted: bool, other: bool
) -> None:
    found = LocalPodsKeeper("node-1").update(world(msgspec.structs.replace(POD, **change)))
    assert ("a" in found.wanted, "a" in found.others) == (wanted, other)


def test_a_pod_of_a_namespace_outside_of_the_mesh_is_left_alone() -> None:
    found = LocalPodsKeeper("node-1").update(world(POD, Namespace(name="shop")))
    assert not found.wanted
    assert found.others == {"a"}


def test_what_became_of_pods_and_namespaces_is_followed() -> None:
    keeper = LocalPodsKeeper("node-1")
    assert keeper.update(world(POD)).wanted == {"a"}
    assert keeper.update(world(POD, Namespace(name="shop"))).others == {"a"}
    assert not keeper.update(world(msgspec.structs.replace(POD, node="node-2"))).wanted
    assert keeper.update(world(POD)).wanted == {"a"}
    gone = keeper.update(world(msgspec.structs.replace(POD, uid="b")))
    assert gone.wanted == {"b"}
