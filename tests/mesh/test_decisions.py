"""Where a client connects to, and what each end decides about it."""

from __future__ import annotations

import pytest

from troth.errors import PeerError
from troth.identity.spiffe import TrustDomain
from troth.mesh.decisions import client_decision, server_decision
from troth.mesh.model import MESH_LABEL, Endpoint, Namespace, Pod, Protocol, Service, ServicePort
from troth.mesh.target import find_target, preferred, target_key
from troth.mesh.view import node_view
from troth.mesh.world import World
from troth.policy.model import Mode, PeerAuthentication

WEB = Pod(uid="w", namespace="finance", name="web", addresses=("10.0.0.1",), captured=True)
PAYMENTS = Pod(
    uid="p",
    namespace="finance",
    name="payments-0",
    owner="payments",
    labels={"app": "payments"},
    service_account="payments",
    addresses=("10.0.0.2", "fd00::2"),
    captured=True,
    ready=True,
)
SPARE = Pod(
    uid="s",
    namespace="finance",
    name="payments-1",
    owner="payments",
    addresses=("10.0.0.4",),
)
CRON = Pod(uid="c", namespace="legacy", name="cron", addresses=("10.0.0.3",))
SERVICE = Service(
    namespace="finance",
    name="payments",
    cluster_ips=("10.96.0.1",),
    ports=(
        ServicePort(number=80, endpoints=(Endpoint("10.0.0.2", 8080), Endpoint("fd00::2", 8080))),
        ServicePort(number=53, protocol=Protocol.UDP, endpoints=(Endpoint("10.0.0.2", 53),)),
    ),
)


def _world(*policies: PeerAuthentication) -> World:
    return World(
        trust_domain=TrustDomain("cluster.local"),
        namespaces={"finance": Namespace(name="finance", labels={MESH_LABEL: "enabled"})},
        pods={pod.uid: pod for pod in (WEB, SPARE, PAYMENTS, CRON)},
        services={"finance/payments": SERVICE},
        policies=policies,
    )


@pytest.mark.parametrize(
    ("name", "port", "address", "endpoints"),
    [
        pytest.param(
            "finance/payments",
            80,
            "10.96.0.1",
            (Endpoint("10.0.0.2", 8080),),
            id="a service by its port, with the endpoints of its family",
        ),
        pytest.param(
            "finance/payments",
            8080,
            "10.0.0.2",
            (Endpoint("10.0.0.2", 8080),),
            id="another port is the Deployment's, any one ready pod of it",
        ),
        pytest.param(
            "finance/payments",
            53,
            "10.0.0.2",
            (Endpoint("10.0.0.2", 53),),
            id="a port for UDP is not the service's",
        ),
        pytest.param(
            "finance/payments-1", 1, "10.0.0.4", (Endpoint("10.0.0.4", 1),), id="a pod by its name"
        ),
        pytest.param("1.2.3.4", 5, "1.2.3.4", (Endpoint("1.2.3.4", 5),), id="an address"),
    ],
)
def test_a_name_and_a_port_lead_to(
    name: str, port: int, address: str, endpoints: tuple[Endpoint, ...]
) -> None:
    target = find_target(_world(), name, port)
    assert (target.address, target.port, target.endpoints) == (address, port, endpoints)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("payments", "finance/payments"),
        ("payments.shop", "shop/payments"),
        ("payments.shop.svc", "shop/payments"),
        ("payments.shop.svc.cluster.local.", "shop/payments"),
        ("shop/payments", "shop/payments"),
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::1", "fd00::1"),
        ("db.example.com", "db.example.com"),
    ],
)
def test_a_name_means_to_a_client_what_dns_says_of_it(name: str, key: str) -> None:
    assert target_key(name, "finance") == key


@pytest.mark.parametrize(
    ("own", "first"),
    [
        pytest.param(("10.0.0.1", "fd00::1"), "fd01::2", id="both"),
        pytest.param(("10.0.0.1",), "10.1.0.2", id="IPv4 alone"),
        pytest.param(("fd00::1",), "fd01::2", id="IPv6 alone"),
        pytest.param(("10.0.0.1", "2001:db8::1"), "10.1.0.2", id="a global IPv6 address"),
    ],
)
def test_of_two_families_a_client_tries_what_getaddrinfo_puts_first(
    own: tuple[str, ...], first: str
) -> None:
    source = Pod(uid="w", namespace="finance", name="web", addresses=own)
    assert preferred(("10.1.0.2", "fd01::2"), source)[0] == first


def test_what_there_is_is_told_where_a_name_means_nothing() -> None:
    with pytest.raises(
        PeerError, match=r"finance/payments\? There are: finance/payments, finance/web"
    ):
        find_target(_world(), "finance/payment", 80)


def _policy(mode: Mode, **ports: Mode) -> PeerAuthentication:
    return PeerAuthentication(
        namespace="finance",
        name="payments",
        selector={"app": "payments"},
        mode=mode,
        port_modes={int(port.removeprefix("p")): mode for port, mode in ports.items()},
    )


@pytest.mark.parametrize(
    ("source", "address", "policies", "tunnel", "why"),
    [
        pytest.param(
            WEB,
            "10.0.0.2",
            (),
            True,
            "port 8080 of finance/payments-0 is PERMISSIVE by the default",
            id="between captured pods",
        ),
        pytest.param(
            WEB,
            "10.0.0.2",
            (_policy(Mode.DISABLE),),
            False,
            "port 8080 of finance/payments-0 is DISABLE by finance/payments (workload)",
            id="to a port that is DISABLE",
        ),
        pytest.param(
            WEB,
            "10.0.0.2",
            (_policy(Mode.DISABLE, p8080=Mode.STRICT),),
            True,
            "port 8080 of finance/payments-0 is STRICT by finance/payments (workload)",
            id="to the STRICT port of a workload that is DISABLE",
        ),
        pytest.param(
            CRON,
            "10.0.0.2",
            (_policy(Mode.STRICT),),
            False,
            "legacy/cron is not in the mesh: namespace legacy is not labelled "
            "troth.dev/mesh: enabled",
            id="from outside the mesh",
        ),
        pytest.param(
            WEB,
            "10.0.0.4",
            (),
            False,
            "finance/payments-1 is not captured yet",
            id="to a pod that isn't captured yet",
        ),
        pytest.param(
            WEB, "1.2.3.4", (), False, "1.2.3.4 is not a pod of the mesh", id="to the outside world"
        ),
    ],
)
def test_the_client_connects_by(
    source: Pod, address: str, policies: tuple[PeerAuthentication, ...], *, tunnel: bool, why: str
) -> None:
    decision = client_decision(_world(*policies), source, Endpoint(address, 8080))
    assert (decision.tunnel, decision.why) == (tunnel, why)
    expected = "spiffe://cluster.local/ns/finance/sa/payments" if tunnel else None
    assert decision.expected == expected


@pytest.mark.parametrize("mode", [Mode.STRICT, Mode.PERMISSIVE, Mode.DISABLE])
@pytest.mark.parametrize("port_mode", [Mode.UNSET, Mode.STRICT, Mode.PERMISSIVE, Mode.DISABLE])
def test_what_is_told_of_the_client_is_what_envoy_is_told(mode: Mode, port_mode: Mode) -> None:
    world = _world(_policy(mode, p8080=port_mode))
    (view,) = (
        destination
        for destination in node_view(
            world, netns=dict.fromkeys(world.pods, "/n")
        ).destinations.values()
        if "10.0.0.2" in destination.addresses
    )
    told = view.tunnel is not (8080 in view.exceptions)
    assert client_decision(world, WEB, Endpoint("10.0.0.2", 8080)).tunnel is told


@pytest.mark.parametrize(
    ("mode", "plaintext"),
    [(Mode.STRICT, False), (Mode.PERMISSIVE, True), (Mode.DISABLE, True)],
)
def test_a_captured_server_takes_the_tunnel_in_every_mode_and_plaintext(
    mode: Mode, *, plaintext: bool
) -> None:
    decision = server_decision(_world(_policy(mode)), Endpoint("10.0.0.2", 8080))
    assert (decision.tunnel, decision.plaintext, decision.mode) == (True, plaintext, mode)
    assert decision.decided_by
    assert decision.decided_by.policy == "finance/payments"


def test_a_server_outside_the_mesh_has_no_mode_and_no_tunnel() -> None:
    decision = server_decision(_world(_policy(Mode.STRICT)), Endpoint("10.0.0.3", 8080))
    assert (decision.tunnel, decision.plaintext, decision.mode) == (False, True, None)
