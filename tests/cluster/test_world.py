"""Which endpoints a node's pods use, beside kube-proxy's rules; and whose an address is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.cluster.world import (
    ClusterService,
    ClusterState,
    EndpointSlice,
    Family,
    NodeTopology,
    SliceEndpoint,
    pods_by_uid,
    resolve_services,
)
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import Endpoint, Namespace, Pod, Protocol, Service, ServicePort
from troth.policy.model import PeerAuthentication

NODE = NodeTopology(name="here", zone="z1")
NOWHERE = NodeTopology()
HTTP = ("http", Protocol.TCP)


def service(**fields: Any) -> ClusterService:
    return msgspec.structs.replace(
        ClusterService(
            namespace="shop",
            name="web",
            cluster_ips=("10.96.0.1",),
            ports=(ServicePort(number=80, name="http"),),
        ),
        **fields,
    )


def at(host: int, *marks: str) -> SliceEndpoint:
    """10.0.0.HOST; marks are conditions, ``@NODE``, and hints ``zone:Z``, ``node:N``."""
    marked = set(marks)

    def after(prefix: str) -> frozenset[str]:
        return frozenset(mark.removeprefix(prefix) for mark in marked if mark.startswith(prefix))

    return SliceEndpoint(
        address=f"10.0.0.{host}",
        node=next(iter(after("@")), ""),
        ready="unready" not in marked and "terminating" not in marked,
        serving="unready" not in marked,
        terminating="terminating" in marked,
        for_zones=after("zone:"),
        for_nodes=after("node:"),
    )


def in_slice(*endpoints: SliceEndpoint, **fields: Any) -> EndpointSlice:
    return msgspec.structs.replace(
        EndpointSlice(service="shop/web", ports={HTTP: 8080}, endpoints=endpoints), **fields
    )


def chosen(
    of: ClusterService, *slices: EndpointSlice, node: NodeTopology = NODE
) -> list[tuple[str, int]]:
    resolved = resolve_services([of], slices, node)[str(of)]
    return [(each.address, each.port) for port in resolved.ports for each in port.endpoints]


def hosts(of: ClusterService, *endpoints: SliceEndpoint, node: NodeTopology = NODE) -> list[int]:
    found = chosen(of, in_slice(*endpoints), node=node)
    assert {port for _, port in found} <= {8080}
    return [int(address.rpartition(".")[2]) for address, _ in found]


TABLE = [
    ("no endpoints", [], [], []),
    ("ready ones", [at(1), at(2)], [1, 2], []),
    ("an unready one is none", [at(1), at(2, "unready")], [1], []),
    ("all unready", [at(1, "unready"), at(2, "unready")], [], []),
    ("terminating beside ready", [at(1), at(2, "terminating")], [1], []),
    ("terminating ones alone", [at(1, "terminating"), at(2, "terminating")], [1, 2], []),
    ("terminating and unready", [at(1, "terminating", "unready")], [], []),
    (
        "terminating beside unready",
        [at(1, "terminating"), at(2, "unready"), at(3, "terminating", "unready")],
        [1],
        [],
    ),
    ("where they are is no matter", [at(1, "@here"), at(2, "@there")], [1, 2], [1]),
    ("none here", [at(1, "@there")], [1], []),
    ("here but unready", [at(1, "@there"), at(2, "@here", "unready")], [1], []),
    ("terminating here, ready there", [at(1, "@there"), at(2, "@here", "terminating")], [1], [2]),
    ("ready here beside terminating", [at(1, "@here"), at(2, "@here", "terminating")], [1], [1]),
    ("hints for this zone", [at(1, "zone:z1"), at(2, "zone:z2")], [1], []),
    ("a hint for several zones", [at(1, "zone:z1", "zone:z2"), at(2, "zone:z2")], [1], []),
    ("hints for other zones only", [at(1, "zone:z2"), at(2, "zone:z3")], [1, 2], []),
    ("one without a hint", [at(1, "zone:z1"), at(2)], [1, 2], []),
    (
        "an unready one without a hint",
        [at(1, "zone:z1"), at(2, "zone:z2"), at(3, "unready")],
        [1],
        [],
    ),
    ("only an unready one in the zone", [at(1, "zone:z1", "unready"), at(2, "zone:z2")], [2], []),
    ("terminating ones of any zone", [at(1, "zone:z2", "terminating")], [1], []),
    ("hints for this node", [at(1, "node:here"), at(2, "node:there")], [1], []),
    ("hints for other nodes only", [at(1, "node:there")], [1], []),
    (
        "node hints before zone hints",
        [at(1, "node:there", "zone:z1"), at(2, "node:here", "zone:z2")],
        [2],
        [],
    ),
    (
        "zone hints where no node hint fits",
        [at(1, "node:there", "zone:z1"), at(2, "node:there", "zone:z2")],
        [1],
        [],
    ),
    (
        "the local policy is deaf to hints",
        [at(1, "@here", "zone:z2"), at(2, "@there", "zone:z1")],
        [2],
        [1],
    ),
]


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [pytest.param(endpoints, cluster, id=title) for title, endpoints, cluster, _ in TABLE],
)
def test_endpoints_are_chosen_as_kube_proxy_does(
    endpoints: list[SliceEndpoint], expected: list[int]
) -> None:
    assert hosts(service(), *endpoints) == expected


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [pytest.param(endpoints, local, id=title) for title, endpoints, _, local in TABLE],
)
def test_with_internal_traffic_policy_local_only_this_nodes_count(
    endpoints: list[SliceEndpoint], expected: list[int]
) -> None:
    assert hosts(service(only_own_node=True), *endpoints) == expected


def test_a_node_without_a_zone_label_has_no_use_for_hints() -> None:
    node = NodeTopology(name="here")
    assert hosts(service(), at(1, "zone:z1"), at(2, "zone:"), node=node) == [1, 2]


@pytest.mark.parametrize("field", ["load_balancer_ips", "external_ips"])
def test_other_addresses_of_a_service_lead_to_all_nodes_endpoints_whatever_the_policy(
    field: str,
) -> None:
    of = service(only_own_node=True, **{field: ("192.0.2.1",)})
    endpoints = in_slice(at(1, "@here"), at(2, "@there"))
    (port,) = resolve_services([of], [endpoints], NODE)["shop/web"].ports
    assert port.endpoints == (Endpoint("10.0.0.1", 8080),)
    assert port.external_endpoints == (Endpoint("10.0.0.1", 8080), Endpoint("10.0.0.2", 8080))


def test_a_headless_service_has_no_other_addresses_either() -> None:
    of = service(cluster_ips=(), load_balancer_ips=("192.0.2.1",), external_ips=("192.0.2.2",))
    resolved = resolve_services([of], [in_slice(at(1))], NODE)["shop/web"]
    assert (resolved.load_balancer_ips, resolved.external_ips) == ((), ())


def test_without_a_node_neither_policy_nor_hints_leave_anything_out() -> None:
    endpoints = at(1, "@here", "zone:z1"), at(2, "@there", "zone:z2")
    assert hosts(service(only_own_node=True), *endpoints, node=NOWHERE) == [1, 2]
    assert hosts(service(), *endpoints, node=NOWHERE) == [1, 2]


def test_ports_are_found_by_name_and_may_differ_between_slices() -> None:
    # As of a named target port: each slice holds the pods that have the same number for it.
    of = service(ports=(ServicePort(number=80, name="http"), ServicePort(number=81, name="admin")))
    first = in_slice(at(1), ports={HTTP: 8080, ("admin", Protocol.TCP): 9000})
    second = in_slice(at(2), ports={HTTP: 8081})
    assert chosen(of, first, second) == [("10.0.0.1", 8080), ("10.0.0.2", 8081), ("10.0.0.1", 9000)]


def test_a_single_port_may_be_nameless() -> None:
    of = service(ports=(ServicePort(number=80),))
    assert chosen(of, in_slice(at(1), ports={("", Protocol.TCP): 80})) == [("10.0.0.1", 80)]


def test_a_port_of_another_protocol_is_another_port() -> None:
    of = service(ports=(ServicePort(number=53, name="dns", protocol=Protocol.UDP),))
    assert chosen(of, in_slice(at(1), ports={("dns", Protocol.TCP): 53})) == []
    assert chosen(of, in_slice(at(1), ports={("dns", Protocol.UDP): 53})) == [("10.0.0.1", 53)]


def test_slices_of_other_services_and_namespaces_are_theirs() -> None:
    others = (in_slice(at(1), service="shop/other"), in_slice(at(2), service="bank/web"))
    assert chosen(service(), *others) == []


def test_a_selectorless_service_leads_where_its_slices_say() -> None:
    foreign = SliceEndpoint(address="192.0.2.7")
    assert chosen(service(), in_slice(foreign, ports={HTTP: 443})) == [("192.0.2.7", 443)]


def test_a_headless_service_has_endpoints_but_no_address() -> None:
    resolved = resolve_services([service(cluster_ips=())], [in_slice(at(1))], NODE)["shop/web"]
    assert resolved.cluster_ips == ()
    assert resolved.ports[0].endpoints == (Endpoint("10.0.0.1", 8080),)


def test_each_ip_family_is_chosen_from_by_itself() -> None:
    six = in_slice(
        SliceEndpoint(address="fd00::1", ready=False, terminating=True), family=Family.IPV6
    )
    assert chosen(service(), in_slice(at(1), at(2, "terminating")), six) == [
        ("10.0.0.1", 8080),
        ("fd00::1", 8080),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_an_endpoint_in_two_slices_counts_once_and_as_what_is_best(order: int) -> None:
    slices = [in_slice(at(1, "unready")), in_slice(at(1))][::order]
    assert chosen(service(), *slices) == [("10.0.0.1", 8080)]


def test_session_affinity_is_passed_on() -> None:
    resolved = resolve_services([service(client_ip_affinity=True)], [], NODE)["shop/web"]
    assert resolved == Service(
        namespace="shop",
        name="web",
        cluster_ips=("10.96.0.1",),
        ports=(ServicePort(number=80, name="http"),),
        client_ip_affinity=True,
    )


marks = st.sampled_from(
    ["unready", "terminating", "@here", "@there", "zone:z1", "zone:z2", "node:here", "node:there"]
)


@given(st.lists(st.lists(marks, max_size=4), max_size=6), st.booleans())
def test_what_is_chosen_is_usable_and_there_is_something_whenever_there_can_be(
    drawn: list[list[str]],
    local: bool,  # noqa: FBT001 - hypothesis passes it so
) -> None:
    endpoints = {host: at(host, *each) for host, each in enumerate(drawn, start=1)}
    found = hosts(service(only_own_node=local), *endpoints.values())
    candidates = {
        host: each for host, each in endpoints.items() if not local or each.node == NODE.name
    }
    ready = {host for host, each in candidates.items() if each.ready}
    draining = {host for host, each in candidates.items() if each.serving and each.terminating}
    assert set(found) <= ready if ready else set(found) == draining
    assert bool(found) is bool(ready or draining)


def pod(uid: str, *addresses: str, **fields: Any) -> Pod:
    return msgspec.structs.replace(
        Pod(uid=uid, namespace="shop", name=uid, addresses=addresses), **fields
    )


def on(hour: int) -> datetime:
    return datetime(2026, 1, 1, hour, tzinfo=UTC)


def addresses(*pods: Pod, node: str = "") -> dict[str, tuple[str, ...]]:
    return {uid: each.addresses for uid, each in pods_by_uid(pods, node=node).items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param({"terminating": True}, {}, id="one is terminating"),
        pytest.param({"started": on(1)}, {"started": on(2)}, id="one started later"),
        pytest.param({"started": None}, {"started": on(2)}, id="one never started"),
        pytest.param(
            {"started": on(3), "terminating": True},
            {"started": on(2)},
            id="terminating counts first",
        ),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_an_address_is_the_one_pods_that_has_it_now(
    old: dict[str, Any], new: dict[str, Any], order: int
) -> None:
    pods = [pod("old", "10.0.0.5", **old), pod("new", "10.0.0.5", **new)][::order]
    assert addresses(*pods) == {"old": (), "new": ("10.0.0.5",)}


def test_a_pod_loses_only_the_address_that_another_has() -> None:
    old = pod("old", "10.0.0.5", "fd00::5", terminating=True)
    assert addresses(old, pod("new", "10.0.0.5"))["old"] == ("fd00::5",)


def test_no_other_node_takes_an_address_from_a_nodes_own_pods() -> None:
    own = pod("own", "10.0.0.5", node="n1", started=on(1))
    claim = pod("claim", "10.0.0.9", "10.0.0.5", node="n2", started=on(9))
    assert addresses(own, claim, node="n1") == {"own": ("10.0.0.5",), "claim": ("10.0.0.9",)}
    assert addresses(own, claim, node="n2")["claim"] == ("10.0.0.9", "10.0.0.5")


def test_a_terminating_pod_keeps_an_address_that_nobody_else_has() -> None:
    assert addresses(pod("old", "10.0.0.5", terminating=True)) == {"old": ("10.0.0.5",)}


def test_pods_of_the_hosts_network_share_its_address() -> None:
    pods = [pod(uid, "192.0.2.1", host_network=True) for uid in ("a", "b")]
    assert addresses(*pods) == {"a": ("192.0.2.1",), "b": ("192.0.2.1",)}


def test_a_state_is_the_world_of_a_mesh() -> None:
    web = pod("web")
    state = ClusterState(
        namespaces={"shop": Namespace(name="shop")},
        pods={"web": web},
        services={"shop/web": Service(namespace="shop", name="web")},
        policies=(PeerAuthentication(namespace="shop", name="default"),),
    )
    world = state.world(TrustDomain.parse("cluster.local"), root_namespace="mesh-root")
    assert (world.namespaces, world.pods, world.services, world.policies) == (
        state.namespaces,
        state.pods,
        state.services,
        state.policies,
    )
    assert (str(world.trust_domain), world.root_namespace) == ("cluster.local", "mesh-root")
