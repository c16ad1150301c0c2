"""What a node agent knows of its own pods before it knows all of the cluster."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.kube.fake_api import NAMESPACES, PODS, Exchange, FakeApi, Object, fake_api, thing

from troth.agent.cluster.local_pods import foresee
from troth.agent.cluster.settings import NodeSettings
from troth.identity.spiffe import TrustDomain
from troth.kube.client import ApiClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SETTINGS = NodeSettings(node_name="n1", trust_domain=TrustDomain.parse("cluster.local"))


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[FakeApi, ApiClient]]:
    """One whose two nodes have a pod each."""
    async with fake_api() as api:
        await api.put(NAMESPACES, thing("shop", metadata={"labels": {"troth.dev/mesh": "enabled"}}))
        for node in ("n1", "n2"):
            spec: Object = {"nodeName": node, "serviceAccountName": "web", "containers": []}
            await api.put(PODS, thing(f"on-{node}", "shop", spec=spec))
        server = ApiClient(api.config)
        try:
            yield api, server
        finally:
            await server.aclose()


async def test_the_nodes_own_pods_are_foreseen_and_no_others() -> None:
    async with cluster() as (_, server):
        world = await foresee(server, SETTINGS)
        assert world is not None
        assert [pod.name for pod in world.pods.values()] == ["on-n1"]


async def test_whether_they_are_in_the_mesh_is_foreseen_too() -> None:
    async with cluster() as (_, server):
        world = await foresee(server, SETTINGS)
        assert world is not None
        assert [world.membership(pod).in_mesh for pod in world.pods.values()] == [True]


@pytest.mark.parametrize("path", [PODS, NAMESPACES])
async def test_nothing_is_foreseen_of_what_may_not_be_listed(path: str) -> None:
    async def forbid(exchange: Exchange) -> None:
        await exchange.refuse(403, "forbidden")

    async with cluster() as (api, server):
        api.faults[path].append(forbid)
        assert await foresee(server, SETTINGS) is None
