"""A real API server is followed: its controllers' slices, its restarts, its refusals, its limits.

It has a control plane of its own, because it stops it and changes its schemas.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import yaml
from lightkube import KubeConfig
from lightkube.config.client_adapter import Client, ConnectionParams
from lightkube.models.authentication_v1 import TokenRequestSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Pod, ServiceAccountToken
from structlog.testing import capture_logs
from tests.cluster.following import eventually, following
from tests.rig.controlplane import ControlPlane
from tests.rig.objects import PeerAuthentication

from troth.agent.cluster.ranges import ServiceRanges
from troth.cluster.state import NAMESPACES
from troth.errors import EnvironmentLackError
from troth.kube.client import ApiClient
from troth.kube.follow import events
from troth.kube.reflector import Gone, Opened, Watch
from troth.mesh.model import Endpoint
from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from lightkube import SingleConfig

    from troth.cluster.world import ClusterState

pytestmark = pytest.mark.cluster

CRD = Path(__file__).parents[2] / "deploy" / "crds" / "peerauthentications.yaml"
NODE = "node-a"
READY = [{"type": "Ready", "status": "True"}]
UNREADY = [{"type": "Ready", "status": "False"}]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        # Pods of nodes that aren't there are collected.
        running.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        yield running


@pytest.fixture
def policies_kind(plane: ControlPlane) -> None:
    plane.apply(CRD.read_text())


@pytest.fixture
def admin(plane: ControlPlane) -> SingleConfig:
    return config(plane.kubeconfig(outside=True))


@pytest.fixture
def shop(plane: ControlPlane) -> Iterator[str]:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = {"name": "default", "namespace": name}
    plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    yield name
    plane.client.delete(Namespace, name)


def config(kubeconfig: Path) -> SingleConfig:
    found = KubeConfig.from_file(kubeconfig).get()
    assert found is not None
    return found


def policy(namespace: str, mode: str, name: str = "default") -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"mtls": {"mode": mode}},
    }


def modes(state: ClusterState, namespace: str) -> dict[str, Mode]:
    return {each.name: each.mode for each in state.policies if each.namespace == namespace}


def make_pod(plane: ControlPlane, namespace: str, name: str, ip: str, port: int = 8080) -> None:
    """What a scheduler and a kubelet would make of a pod."""
    container = {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": port}]}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": "web"}}
    spec = {"nodeName": NODE, "containers": [container], "terminationGracePeriodSeconds": 30}
    plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    set_status(
        plane, namespace, name, conditions=READY, phase="Running", podIP=ip, podIPs=[{"ip": ip}]
    )


def set_status(plane: ControlPlane, namespace: str, name: str, **status: Any) -> None:
    plane.client.patch(Pod.Status, name, {"status": status}, namespace=namespace)


def endpoints(state: ClusterState, service: str) -> set[tuple[str, int]]:
    found = state.services.get(service)
    ports = found.ports if found is not None else ()
    return {(each.address, each.port) for port in ports for each in port.endpoints}


def service(namespace: str, name: str = "web", **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": ports, **spec},
    }


async def test_without_the_crd_there_are_no_policies_until_it_is_there(
    plane: ControlPlane, admin: SingleConfig, shop: str
) -> None:
    # The first test of the module: nobody has made it yet.
    async with following(admin) as followed:
        state = await followed.until(lambda state: shop in state.namespaces)
        assert (state.policies, followed.troubles) == ((), [])
        plane.apply(CRD.read_text())
        await eventually(
            lambda: applied(plane, policy(shop, "STRICT"), unless=HTTPStatus.NOT_FOUND)
        )
        await followed.until(lambda state: modes(state, shop) == {"default": Mode.STRICT})


def applied(plane: ControlPlane, what: dict[str, Any], *, unless: HTTPStatus) -> bool:
    """Whether it could be applied; a change of a kind takes the server a moment."""
    try:
        plane.apply(what)
    except httpx2.HTTPStatusError as error:
        if error.response.status_code == unless:
            return False
        raise
    return True


@pytest.mark.usefixtures("policies_kind")
async def test_slices_of_the_real_controller_become_endpoints(
    plane: ControlPlane, admin: SingleConfig, shop: str
) -> None:
    key = f"{shop}/web"
    async with following(admin, node_name=NODE) as followed:
        # Two pods that give the named port another number each.
        make_pod(plane, shop, "a", "10.244.9.1", port=8080)
        make_pod(plane, shop, "b", "10.244.9.2", port=8081)
        plane.apply(service(shop, sessionAffinity="ClientIP"))
        plane.apply(service(shop, "headless", clusterIP="None", publishNotReadyAddresses=True))
        a, b = ("10.244.9.1", 8080), ("10.244.9.2", 8081)
        state = await followed.until(
            lambda state: endpoints(state, key) == {a, b} == endpoints(state, f"{shop}/headless")
        )
        assert state.services[key].client_ip_affinity
        assert len(state.services[key].cluster_ips) == 1
        assert state.services[f"{shop}/headless"].cluster_ips == ()
        (pod,) = (each for each in state.pods.values() if str(each) == f"{shop}/a")
        assert (pod.node, pod.ready, pod.addresses) == (NODE, True, ("10.244.9.1",))

        set_status(plane, shop, "a", conditions=UNREADY)
        state = await followed.until(lambda state: endpoints(state, key) == {b})
        assert endpoints(state, f"{shop}/headless") >= {b}

        # No kubelet confirms the deletion, so the last endpoint goes on serving.
        plane.client.delete(Pod, "b", namespace=shop)
        await followed.until(
            lambda state: any(
                pod.terminating for pod in state.pods.values() if pod.namespace == shop
            )
        )
        state = await followed.until(lambda state: endpoints(state, key) == {b})
        plane.client.delete(Pod, "b", namespace=shop, grace_period=0)
        await followed.until(lambda state: endpoints(state, key) == set())


@pytest.mark.usefixtures("policies_kind")
async def test_a_services_own_slices_and_a_local_policy_are_followed(
    plane: ControlPlane, admin: SingleConfig, shop: str
) -> None:
    selectorless = service(shop, internalTrafficPolicy="Local")
    del selectorless["spec"]["selector"]
    plane.apply(selectorless)
    places = ((NODE, "192.0.2.1"), ("elsewhere", "192.0.2.2"))
    plane.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "web-own",
                "namespace": shop,
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 443, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "nodeName": node} for node, ip in places],
        }
    )
    async with following(admin, node_name=NODE) as followed:
        await followed.until(lambda state: endpoints(state, f"{shop}/web") == {("192.0.2.1", 443)})
    async with following(admin) as followed:
        state = await followed.until(lambda _: True)
    assert state.services[f"{shop}/web"].ports[0].endpoints == (
        Endpoint("192.0.2.1", 443),
        Endpoint("192.0.2.2", 443),
    )


@pytest.mark.usefixtures("policies_kind")
async def test_policies_are_followed_from_their_making_to_their_end(
    plane: ControlPlane, admin: SingleConfig, shop: str
) -> None:
    async with following(admin) as followed:
        await followed.until(lambda state: shop in state.namespaces)
        plane.apply(policy(shop, "STRICT"))
        state = await followed.until(lambda state: modes(state, shop) == {"default": Mode.STRICT})
        assert all(each.created is not None for each in state.policies)
        plane.apply(policy(shop, "DISABLE"))
        await followed.until(lambda state: modes(state, shop) == {"default": Mode.DISABLE})
        plane.client.delete(PeerAuthentication, "default", namespace=shop)
        await followed.until(lambda state: modes(state, shop) == {})


@pytest.mark.usefixtures("policies_kind")
async def test_a_mode_put_past_the_schema_leaves_the_last_good_one_in_force(
    plane: ControlPlane, admin: SingleConfig, shop: str
) -> None:
    lax = yaml.safe_load(CRD.read_text())
    for version in lax["spec"]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        spec["properties"]["mtls"]["properties"]["mode"].pop("enum", None)  # shared
    try:
        async with following(admin) as followed:
            plane.apply(policy(shop, "STRICT"))
            await followed.until(lambda state: modes(state, shop) == {"default": Mode.STRICT})
            plane.apply(lax)
            await eventually(
                lambda: applied(
                    plane, policy(shop, "MAYBE"), unless=HTTPStatus.UNPROCESSABLE_ENTITY
                )
            )
            state = await followed.until(lambda state: bool(state.problems))
            assert modes(state, shop) == {"default": Mode.STRICT}
            assert state.problems[0].subject == f"PeerAuthentication {shop}/default"
            plane.apply(policy(shop, "DISABLE", name="other"))
            await followed.until(
                lambda state: modes(state, shop) == {"default": Mode.STRICT, "other": Mode.DISABLE}
            )
            plane.client.delete(PeerAuthentication, "default", namespace=shop)
            await followed.until(lambda state: not state.problems)
    finally:
        plane.apply(CRD.read_text())


@pytest.mark.usefixtures("policies_kind")
async def test_objects_as_big_and_as_deep_as_the_server_takes_hide_nothing(
    plane: ControlPlane, admin: SingleConfig, shop: str
) -> None:
    depth = 4000
    fields = '{"f:metadata":' + '{"f:a":' * depth + "{}" + "}" * depth + "}"
    entry = {
        "manager": "m",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": "FIELDS",
    }
    big = {"name": "BIG", "value": "x" * 2**20}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "evil", "namespace": shop, "managedFields": [entry]},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [big]}]},
    }

    def pods(state: ClusterState) -> set[str]:
        return {each.name for each in state.pods.values() if each.namespace == shop}

    async with following(admin) as followed:
        await followed.until(lambda state: shop in state.namespaces)
        with Client(admin, ConnectionParams()) as http:
            http.post(
                f"/api/v1/namespaces/{shop}/pods",
                content=json.dumps(pod).replace('"FIELDS"', fields),
                headers={"Content-Type": "application/json"},
            ).raise_for_status()
            sent = http.get(f"/api/v1/namespaces/{shop}/pods/evil").text
        assert '{"f:a":' * depth in sent
        assert len(sent) > 2**20
        await followed.until(lambda state: pods(state) == {"evil"})
        make_pod(plane, shop, "good", "10.244.9.3")
        await followed.until(lambda state: pods(state) == {"evil", "good"})
        assert followed.troubles == []
    async with following(admin) as followed:  # also in a list
        await followed.until(lambda state: pods(state) == {"evil", "good"})


@pytest.mark.usefixtures("policies_kind")
async def test_what_happened_while_the_server_was_away_is_caught_up_with(
    plane: ControlPlane, admin: SingleConfig, shop: str
) -> None:
    plane.apply(policy(shop, "STRICT", name="kept"))
    plane.apply(policy(shop, "STRICT", name="lost"))
    async with following(admin) as followed:
        await followed.until(lambda state: set(modes(state, shop)) == {"kept", "lost"})
        with plane.without_apiserver():
            await eventually(lambda: bool(followed.troubles))
        # The test blocks the loop, so the follower can't have come back before this.
        plane.client.delete(PeerAuthentication, "lost", namespace=shop)
        plane.apply(policy(shop, "DISABLE", name="kept"))
        await followed.until(lambda state: modes(state, shop) == {"kept": Mode.DISABLE})
        await eventually(lambda: not followed.troubles[-1])


async def test_a_version_that_the_server_forgot_is_gone(
    plane: ControlPlane, admin: SingleConfig
) -> None:
    with plane.without_apiserver():
        pass  # it remembers nothing from before its start
    server = ApiClient(admin)
    async with aclosing(events(server, NAMESPACES, Watch("1"), jitter=lambda: 0.0)) as happening:
        found = [event async for event in happening if event != Opened()]
    await server.aclose()
    assert found == [Gone()]


def as_account(plane: ControlPlane, namespace: str) -> SingleConfig:
    """A service account that may nothing yet."""
    account = {"name": "agent", "namespace": namespace}
    plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    made: Any = plane.client.create(
        ServiceAccountToken(metadata=ObjectMeta(), spec=TokenRequestSpec(audiences=[])),
        "agent",
        namespace=namespace,
    )
    return config(plane.token_kubeconfig(f"agent-{namespace}", made.status.token, outside=True))


@pytest.mark.usefixtures("policies_kind")
async def test_missing_rights_are_named_and_granting_them_is_enough(
    plane: ControlPlane, shop: str
) -> None:
    verbs = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["namespaces", "pods", "services", "nodes"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]},
        {"apiGroups": ["security.istio.io"], "resources": ["peerauthentications"]},
    ]
    group = "rbac.authorization.k8s.io"
    role = {"apiGroup": group, "kind": "ClusterRole", "name": f"agent-{shop}"}
    agent = {"kind": "ServiceAccount", "name": "agent", "namespace": shop}
    metadata = {"name": f"agent-{shop}"}
    agent_config = as_account(plane, shop)
    async with following(agent_config, node_name=NODE) as followed:
        error = await followed.until_trouble("peerauthentications.security.istio.io")
        assert isinstance(error, EnvironmentLackError)
        assert error.lack.startswith(
            "no permission to list peerauthentications.security.istio.io in all namespaces"
        )
        assert f"system:serviceaccount:{shop}:agent" in error.lack
    plane.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": [{**rule, "verbs": verbs} for rule in rules],
        }
    )
    plane.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": role,
            "subjects": [agent],
        }
    )
    async with following(agent_config, node_name=NODE) as followed:
        state = await followed.until(lambda state: shop in state.namespaces)
    assert "kube-system" in state.namespaces


async def test_a_new_range_of_services_is_noticed(plane: ControlPlane, admin: SingleConfig) -> None:
    async with ranges_of(admin) as ranges:
        await eventually(lambda: bool(ranges.networks))
        (first,) = ranges.networks
        more = {"cidrs": ["10.99.0.0/24", "fd00:99::/112"]}
        kind = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR"}
        plane.apply({**kind, "metadata": {"name": "more"}, "spec": more})
        await eventually(lambda: set(ranges.networks) == {first, *more["cidrs"]})


async def test_without_the_right_to_see_them_services_have_no_ranges(plane: ControlPlane) -> None:
    user = config(plane.kubeconfig("nobody", outside=True))
    with capture_logs() as log:
        async with ranges_of(user) as ranges:
            await eventually(lambda: bool(log))
            assert ranges.networks == ()
    assert log[0]["resource"] == "servicecidrs.networking.k8s.io"
    assert "no permission to list servicecidrs.networking.k8s.io" in log[0]["reason"]


@contextlib.asynccontextmanager
async def ranges_of(config: SingleConfig) -> AsyncIterator[ServiceRanges]:
    server = ApiClient(config)
    ranges = ServiceRanges(server, on_change=lambda: None)
    running = asyncio.create_task(ranges.run())
    yield ranges
    running.cancel()
    await server.aclose()
