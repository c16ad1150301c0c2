"""What a node has to know."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.mesh.model import ALL_PORTS, NO_PORTS, ContainerPort, Pod, Service, ServicePort
from troth.mesh.view import Destination, node_view
from troth.mesh.world import World
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode, PeerAuthentication

TRUST_DOMAIN = TrustDomain.parse("cluster.local")
WEB = Pod(
    uid="uid-web",
    namespace="shop",
    name="web",
    labels={"app": "web"},
    service_account="web",
    addresses=("10.244.0.5", "fd74::5"),
    ports=(ContainerPort(number=8080),),
    captured=True,
)
IDENTITY = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "web")


def world(*pods: Pod, policies: tuple[PeerAuthentication, ...] = ()) -> World:
    return World(trust_domain=TRUST_DOMAIN, pods={pod.uid: pod for pod in pods}, policies=policies)


def policy(mode: Mode, *, ports: dict[int, Mode] | None = None) -> PeerAuthentication:
    return PeerAuthentication(
        namespace="shop", name="web", selector={"app": "web"}, mode=mode, port_modes=ports or {}
    )


@pytest.mark.parametrize(
    ("mode", "ports", "tunnel", "exceptions"),
    [
        pytest.param(None, {}, True, (), id="no policy"),
        pytest.param(Mode.STRICT, {}, True, (), id="strict"),
        pytest.param(Mode.PERMISSIVE, {}, True, (), id="permissive"),
        pytest.param(Mode.DISABLE, {}, False, (), id="disable"),
        pytest.param(Mode.STRICT, {9: Mode.PERMISSIVE}, True, (), id="a permissive port"),
        pytest.param(Mode.STRICT, {9: Mode.DISABLE}, True, (9,), id="a disabled port"),
        pytest.param(Mode.DISABLE, {9: Mode.STRICT}, False, (9,), id="a strict port"),
        pytest.param(Mode.DISABLE, {9: Mode.PERMISSIVE}, False, (9,), id="permissive in disable"),
        pytest.param(Mode.DISABLE, {9: Mode.DISABLE}, False, (), id="disabled in disable"),
    ],
)
def test_clients_use_the_tunnel_exactly_where_the_ports_own_mode_is_not_disable(
    *, mode: Mode | None, ports: dict[int, Mode], tunnel: bool, exceptions: tuple[int, ...]
) -> None:
    policies = () if mode is None else (policy(mode, ports=ports),)
    view = node_view(world(WEB, policies=policies), netns={WEB.uid: "/n"})
    (destination,) = view.destinations.values()
    assert destination == Destination(
        addresses=WEB.addresses,
        identity=IDENTITY,
        tunnel=tunnel,
        exceptions=frozenset(exceptions),
    )


def test_a_pod_of_the_node_is_enforced_before_others_may_use_its_tunnel() -> None:
    view = node_view(world(but(captured=False)), netns={"uid-web": "/run/netns/web"})
    (local,) = view.local_pods.values()
    assert (local.pod.uid, local.netns, local.identity) == ("uid-web", "/run/netns/web", IDENTITY)
    assert view.destinations == {}


def test_a_pod_of_another_node_is_a_destination_and_no_more() -> None:
    view = node_view(world(WEB), netns={})
    assert view.local_pods == {}
    assert [each.addresses for each in view.destinations.values()] == [WEB.addresses]


def test_a_pod_without_an_address_is_no_destination() -> None:
    assert node_view(world(but(addresses=())), netns={}).destinations == {}


def test_a_namespace_of_a_pod_that_is_gone_is_not_enforced() -> None:
    assert node_view(world(), netns={"uid-web": "/run/netns/web"}).local_pods == {}


def test_a_local_pods_verdict_names_the_ports_it_declares_and_those_of_its_policy() -> None:
    strict = policy(Mode.STRICT, ports={9090: Mode.DISABLE})
    view = node_view(world(WEB, policies=(strict,)), netns={"uid-web": "/n"})
    (local,) = view.local_pods.values()
    modes = {number: port.mode for number, port in local.verdict.ports.items()}
    assert modes == {8080: Mode.STRICT, 9090: Mode.DISABLE}


def test_local_pods_come_in_an_order_of_their_own() -> None:
    pods = [but(uid=f"uid-{n}", addresses=(f"10.244.0.{n}",)) for n in (3, 1, 2)]
    services = [Service(namespace="shop", name=name) for name in ("b", "a")]
    views = [
        node_view(
            msgspec.structs.replace(
                world(*pods[::step]), services={str(each): each for each in services[::step]}
            ),
            netns={pod.uid: "/n" for pod in pods[::step]},
        )
        for step in (1, -1)
    ]
    assert views[0] == views[1]
    assert list(views[0].local_pods) == ["uid-1", "uid-2", "uid-3"]


modes = st.sampled_from(Mode)
pods = st.lists(
    st.builds(
        Pod,
        uid=st.uuids().map(str),
        namespace=st.sampled_from(["shop", "bank"]),
        name=st.just("pod"),
        labels=st.sampled_from([{}, {"app": "web"}]),
        addresses=st.lists(st.ip_addresses().map(str), max_size=2).map(tuple),
        ports=st.lists(st.builds(ContainerPort, number=st.integers(1, 5)), max_size=3).map(tuple),
        captured=st.booleans(),
    ),
    max_size=5,
    unique_by=lambda pod: pod.uid,
)
policies = st.lists(
    st.builds(
        PeerAuthentication,
        namespace=st.sampled_from(["shop", "bank", "istio-system"]),
        name=st.sampled_from(["a", "b", "c"]),
        selector=st.sampled_from([{}, {"app": "web"}]),
        mode=modes,
        port_modes=st.dictionaries(st.integers(1, 5), modes, max_size=3),
    ),
    max_size=4,
    unique_by=lambda policy: policy.key,
).map(tuple)


@given(pods, policies)
def test_only_captured_pods_are_destinations_and_each_port_is_reached_as_its_own_mode_says(
    known: list[Pod], rules: tuple[PeerAuthentication, ...]
) -> None:
    view = node_view(
        world(*known, policies=rules), netns={pod.uid: "/n" for pod in known if pod.captured}
    )
    captured = sorted((pod for pod in known if pod.captured and pod.addresses), key=by_uid)
    assert [each.addresses for each in view.destinations.values()] == [
        pod.addresses for pod in captured
    ]
    index = PolicyIndex(rules, root_namespace="istio-system")
    for pod, destination in zip(captured, view.destinations.values(), strict=True):
        for port in range(1, 7):
            mode = index.decide(pod.namespace, pod.labels, [port]).mode_of(port)
            tunnel = destination.tunnel is not (port in destination.exceptions)
            assert tunnel is (mode is not Mode.DISABLE)


def by_uid(pod: Pod) -> str:
    return pod.uid


def but(**changes: object) -> Pod:
    """`WEB` with some other fields."""
    return msgspec.structs.replace(WEB, **changes)


def test_only_the_pods_that_others_have_not_heard_of_are_lenient() -> None:
    pods = [but(uid=uid, addresses=()) for uid in ("uid-1", "uid-2")]
    netns = {pod.uid: "/n" for pod in pods}
    strict = policy(Mode.STRICT)
    view = node_view(world(*pods, policies=(strict,)), netns=netns, lenient={"uid-2"})
    assert [local.plaintext for local in view.local_pods.values()] == [NO_PORTS, ALL_PORTS]


def test_services_are_known_by_their_other_addresses_but_not_by_those_of_captured_pods() -> None:
    captured = but(captured=True, addresses=("10.244.0.5",))
    thief = Service(
        namespace="shop",
        name="thief",
        external_ips=("10.244.0.5", "192.0.2.1"),
        ports=(ServicePort(number=80),),
    )
    before = msgspec.structs.replace(world(captured), services={"shop/thief": thief})
    view = node_view(before, netns={})
    assert [each.address for each in view.external_ports] == ["192.0.2.1"]


def test_virtual_ips_outside_of_the_known_ranges_are_known_by_themselves() -> None:
    addresses = {"a": ("10.96.0.1", "fd74:96::1"), "b": ("10.97.0.1", "fd74:97::1"), "c": ()}
    services = {
        f"shop/{name}": Service(namespace="shop", name=name, cluster_ips=ips)
        for name, ips in addresses.items()
    }
    view = node_view(
        msgspec.structs.replace(world(), services=services),
        netns={},
        service_ranges=("10.96.0.0/16", "fd74:96::/112"),
    )
    assert view.service_ranges == ("10.96.0.0/16", "fd74:96::/112", "10.97.0.1", "fd74:97::1")
