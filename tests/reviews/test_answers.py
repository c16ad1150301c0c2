"""What an agent's answers tell of the node's other namespaces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from troth.envoy.delta import AdsStatus, Nack
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import Namespace, Pod
from troth.mesh.world import World
from troth.reviews.answers import Knowledge, answer
from troth.reviews.objects import Question, ReviewSpec, RouteAnswer


def pod(name: str, address: str) -> Pod:
    namespace, _, own = name.partition("/")
    uid = f"uid-of-{namespace}"
    return Pod(uid=uid, namespace=namespace, name=own, addresses=(address,), node="here")


WORLD = World(
    trust_domain=TrustDomain("cluster.local"),
    namespaces={name: Namespace(name=name) for name in ("shop", "bank")},
    pods={each.uid: each for each in (pod("shop/web", "10.0.0.1"), pod("bank/vault", "10.0.0.2"))},
)


def knowledge() -> Knowledge:
    """Of a node whose Envoy refuses something of either namespace."""
    nacks = tuple(
        Nack(type_url="", name=f"listener uid-of-{each}", version="1", message=f"{each} is bad")
        for each in ("shop", "bank")
    )
    # No Envoy refuses what troth writes; what an agent then says is all that matters here.
    agent = SimpleNamespace(
        refused={}, envoy_restarts=0, ads_status=lambda: AdsStatus(connected=True, nacks=nacks)
    )

    async def nowhere(_: object) -> dict[str, Any]:
        return {}

    return Knowledge(node="here", world=WORLD, agent=cast("Any", agent), find_netns=nowhere)


async def test_what_envoy_refuses_of_other_namespaces_is_not_told() -> None:
    spec = ReviewSpec(
        node_name="here", question=Question.ROUTE, from_pod="web", to="10.0.0.2", port=80
    )
    found = await answer(spec, "shop", knowledge())
    assert isinstance(found, RouteAnswer)
    assert found.envoy.refused == ("listener uid-of-shop: shop is bad",)
