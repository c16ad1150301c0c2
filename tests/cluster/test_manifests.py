"""A cluster read once, as the manifests it was made of."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.kube.fake_api import NAMESPACES, PODS, POLICIES, FakeApi, fake_api, thing

from troth.cluster.manifests import read_cluster
from troth.errors import EnvironmentLackError, PeerError
from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.kube.fake_api import Exchange, Object

    from troth.cluster.manifests import ClusterManifests

DEPLOYMENTS = "/apis/apps/v1/deployments"
REPLICA_SETS = "/apis/apps/v1/replicasets"
JOBS = "/apis/batch/v1/jobs"
OTHERS = (
    *(DEPLOYMENTS, REPLICA_SETS, JOBS),
    *("/apis/apps/v1/statefulsets", "/apis/apps/v1/daemonsets", "/apis/batch/v1/cronjobs"),
)
CREATED = "2026-01-31T12:00:00Z"


@asynccontextmanager
async def api_server() -> AsyncGenerator[FakeApi, None]:
    async with fake_api() as api:
        for path in OTHERS:
            api.kinds[path] = {}
        yield api


def serve_namespace(api: FakeApi, namespace: str) -> None:
    """Serve one namespace's objects by themselves, too; there are none."""
    for path in list(api.kinds):
        prefix, _, plural = path.rpartition("/")
        api.kinds[f"{prefix}/namespaces/{namespace}/{plural}"] = {}


async def forbidden(exchange: Exchange) -> None:
    await exchange.refuse(403, 'User "jane" cannot list them')


def forbid(api: FakeApi, *paths: str) -> None:
    for path in paths:
        api.faults[path] = deque([forbidden])


async def read(api: FakeApi, **options: Any) -> ClusterManifests:
    return await read_cluster(api.config, root_namespace="istio-system", **options)


def pod(name: str, owner: str = "", phase: str = "Running") -> Object:
    owners = [{"kind": "ReplicaSet", "name": owner, "uid": f"uid-{owner}", "controller": True}]
    metadata = {"ownerReferences": owners} if owner else {}
    spec = {"containers": [{"name": "app", "image": "app"}]}
    return thing(name, "shop", spec=spec, status={"phase": phase}, metadata=metadata)


def replica_set(name: str, owner: str = "") -> Object:
    owners = [{"kind": "Deployment", "name": owner, "uid": f"uid-{owner}", "controller": True}]
    metadata = {"ownerReferences": owners} if owner else {}
    return thing(name, "shop", spec=workload_spec(), metadata=metadata)


def workload_spec() -> Object:
    labels = {"app": "web"}
    containers = [{"name": "app", "image": "app"}]
    return {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
    }


def policy(name: str, namespace: str = "shop", **spec: Any) -> Object:
    return thing(name, namespace, spec=spec, metadata={"creationTimestamp": CREATED})


def names(found: ClusterManifests) -> set[str]:
    return {str(each) for each in found.manifests.templates}


async def test_what_something_else_made_is_left_out() -> None:
    async with api_server() as api:
        await api.put(DEPLOYMENTS, thing("web", "shop", spec=workload_spec()))
        await api.put(REPLICA_SETS, replica_set("web-1", owner="web"))
        await api.put(PODS, pod("web-1-a", owner="web-1"))
        await api.put(PODS, pod("bare"))
        assert names(await read(api)) == {"Deployment shop/web", "Pod shop/bare"}
        kept = names(await read(api, keep="shop/web-1-a"))
        assert kept == {"Deployment shop/web", "Pod shop/bare", "Pod shop/web-1-a"}


async def test_what_is_made_by_something_unknown_stands_for_it() -> None:
    async with api_server() as api:
        await api.put(REPLICA_SETS, replica_set("web-1", owner="rollout"))
        await api.put(PODS, pod("web-1-a", owner="web-1"))
        await api.put(PODS, pod("other", owner="elsewhere"))
        assert names(await read(api)) == {"ReplicaSet shop/web-1", "Pod shop/other"}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_what_has_ended_is_left_out(phase: str) -> None:
    async with api_server() as api:
        await api.put(PODS, pod("done", phase=phase))
        job = {"template": workload_spec()["template"]}
        job["template"]["spec"]["restartPolicy"] = "Never"
        condition = {"type": "Complete", "status": "True"}
        await api.put(JOBS, thing("swept", "shop", spec=job, status={"conditions": [condition]}))
        await api.put(JOBS, thing("sweep", "shop", spec=job, status={}))
        assert names(await read(api)) == {"Job shop/sweep"}


async def test_a_policy_keeps_its_age_and_is_read_as_one_that_is_stored() -> None:
    async with api_server() as api:
        ports = {"8080": {"mode": "DISABLE"}}
        await api.put(POLICIES, policy("old", mtls={"mode": "STRICT"}, portLevelMtls=ports))
        await api.put(POLICIES, policy("bad", mtls={"mode": "strict"}))
        found = await read(api)
    (stored,) = found.manifests.policies.values()
    assert (stored.mode, stored.port_modes, stored.location) == (Mode.STRICT, {}, None)
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert stored.created == moment
    assert found.created == {"shop/old": moment, "shop/bad": moment}
    assert {(each.subject, each.severity, each.location) for each in found.manifests.problems} == {
        ("PeerAuthentication shop/old", "warning", None),
        ("PeerAuthentication shop/bad", "error", None),
    }


async def test_without_the_custom_resource_there_are_no_policies() -> None:
    async with api_server() as api:
        del api.kinds[POLICIES]
        found = await read(api)
    assert (found.manifests.policies, found.unreadable) == ({}, ())


async def test_one_namespace_is_read_with_rights_there_and_the_root_namespaces_policies() -> None:
    async with api_server() as api:
        serve_namespace(api, "shop")
        await read(api, namespace="shop")
        asked = {exchange.path for exchange in api.requests if exchange.path.endswith("es/shop")}
        assert asked == {"/api/v1/namespaces/shop"}
        others = {exchange.path for exchange in api.requests} - asked
        assert all("/namespaces/" in path for path in others)
        elsewhere = {path for path in others if "/namespaces/shop/" not in path}
        assert {path.rpartition("/")[2] for path in elsewhere} == {"peerauthentications"}


async def test_what_may_not_be_read_is_named_and_the_rest_is_there() -> None:
    async with api_server() as api:
        await api.put(NAMESPACES, thing("shop"))
        await api.put(PODS, pod("bare"))
        forbid(api, DEPLOYMENTS)
        found = await read(api)
    assert names(found) == {"Pod shop/bare"}
    assert not found.has_all_workloads
    (lack,) = found.unreadable
    assert (lack.resource, lack.namespace) == ("deployments.apps", "")
    assert found.manifests.problems == (lack.problem,)
    assert "no permission to list deployments.apps in all namespaces" in lack.problem.found
    assert lack.problem.wanted == (
        "have it given by a ClusterRole: apiGroups ['apps'], resources ['deployments'], "
        "verbs ['list']"
    )


async def test_services_that_may_not_be_read_hide_no_workload() -> None:
    async with api_server() as api:
        forbid(api, "/api/v1/services", POLICIES)
        found = await read(api)
    assert found.has_all_workloads
    assert len(found.unreadable) == 2


async def test_a_namespace_that_may_not_be_read_is_named() -> None:
    async with api_server() as api:
        forbid(api, "/api/v1/namespaces/shop")
        serve_namespace(api, "shop")
        found = await read(api, namespace="shop")
    (lack,) = found.unreadable
    assert (lack.resource, lack.namespace) == ("namespaces", "shop")
    assert "no permission to get namespaces in namespace shop" in lack.error.lack


async def test_an_api_server_that_fails_otherwise_is_an_error() -> None:
    async with api_server() as api:

        async def fail(exchange: Exchange) -> None:
            await exchange.refuse(500, "etcd is away")

        api.faults[PODS] = deque([fail])
        with pytest.raises(PeerError, match="refused to list pods: 500 etcd is away"):
            await read(api)


async def test_what_is_no_kubernetes_is_an_error() -> None:
    async with fake_api() as api:
        api.kinds.clear()
        with pytest.raises(EnvironmentLackError, match="doesn't serve namespaces v1"):
            await read(api)


async def test_one_object_that_is_not_as_expected_is_left_out_and_named() -> None:
    async with api_server() as api:
        await api.put(PODS, pod("odd", phase="Strange"))
        await api.put(PODS, pod("plain"))
        found = await read(api)
    assert names(found) == {"Pod shop/plain"}
    assert [(each.subject, each.path) for each in found.manifests.problems] == [
        ("Pod shop/odd", "status.phase")
    ]


INGRESSES = "/apis/networking.k8s.io/v1/ingresses"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


async def test_what_leads_to_services_is_read_where_it_is_asked_for() -> None:
    async with api_server() as api:
        backend = {"service": {"name": "web", "port": {"number": 80}}}
        ingress = thing("web", "shop", spec={"defaultBackend": backend})
        api.kinds[INGRESSES] = {"shop/web": ingress}
        client = {"service": {"namespace": "shop", "name": "web"}}
        api.kinds[WEBHOOKS] = {"check": thing("check", webhooks=[{"clientConfig": client}])}
        without = await read(api)
        found = await read(api, entrances=True)
    assert without.manifests.entrances == {}
    assert sorted(found.manifests.entrances) == [
        "Ingress.networking.k8s.io shop/web",
        "ValidatingWebhookConfiguration.admissionregistration.k8s.io check",
    ]
    assert found.unreadable == ()
