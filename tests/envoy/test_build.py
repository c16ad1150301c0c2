"""The configuration that Envoy gets, decided as Envoy would decide by it."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.service.runtime.v3 import rtds_pb2
from hypothesis import given
from hypothesis import strategies as st
from tests.envoy.matching import Arrived, chosen_chain

from troth.envoy.build import SnapshotKeeper, build_snapshot
from troth.envoy.clusters import external_cluster, pod_clusters, service_clusters
from troth.envoy.inbound import plain_in, tunnel_in
from troth.envoy.limits import BUFFER_BYTES
from troth.envoy.outbound import InternalOutbound, match_services, outbound
from troth.envoy.resources import INTERNAL_OUTBOUND
from troth.envoy.snapshot import CLUSTER, LISTENER, RUNTIME
from troth.envoy.tls import bundle_secret, svid_secret
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.svid import X509Svid
from troth.mesh.addresses import ExternalPort
from troth.mesh.model import Endpoint, Pod, Protocol, Service, ServicePort
from troth.mesh.ports import OWN_PORTS, PORT_SETS, PortSet
from troth.mesh.view import Destination, LocalPod, NodeView
from troth.policy.model import Mode
from troth.policy.scope import Scope
from troth.policy.verdict import DecidedBy, Decision, PortVerdict
from troth.table import difference

LOG = Path("/run/troth/access-log")
NETNS = "/run/netns/web"
ADDRESSES = ("10.244.0.5", "fd74::5")
TRUST_DOMAIN = TrustDomain.parse("cluster.local")
WEB = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "web")
PAYMENTS = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "payments")
MODES = (Mode.STRICT, Mode.PERMISSIVE, Mode.DISABLE)
SERVICES = match_services(["10.96.0.0/16"], ())
BY_DEFAULT = DecidedBy(scope=Scope.DEFAULT)


def pod_in(mode: Mode, addresses: tuple[str, ...] = ADDRESSES, **ports: Mode) -> LocalPod:
    """A local pod with this mode, and others on ports that are named ``p8080`` and so on."""
    return LocalPod(
        pod=Pod(uid="uid-1", namespace="shop", name="web", addresses=addresses),
        netns=NETNS,
        identity=WEB,
        verdict=Decision(
            mode=mode,
            decided_by=BY_DEFAULT,
            ports={
                int(name[1:]): PortVerdict(mode=port_mode, decided_by=BY_DEFAULT, why="")
                for name, port_mode in ports.items()
            },
        ),
    )


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.self_signed(TRUST_DOMAIN, datetime.now(UTC))


@pytest.fixture(scope="module")
def svid(authority: CertificateAuthority) -> X509Svid:
    now, key = datetime.now(UTC), new_key()
    chain = authority.sign(build_csr(key, WEB), now=now).chain
    return X509Svid.assemble(key, chain, authority.trust_bundle, now=now)


# What enters without the tunnel.


@pytest.mark.parametrize("port_mode", MODES)
@pytest.mark.parametrize("mode", MODES)
def test_plaintext_passes_exactly_where_the_ports_own_mode_is_not_strict(
    mode: Mode, port_mode: Mode
) -> None:
    listener = plain_in(pod_in(mode, p8080=port_mode), LOG)
    known, unknown = (
        chosen_chain(listener, Arrived(ADDRESSES[0], port)) is not None for port in (8080, 9999)
    )
    assert known is (port_mode is not Mode.STRICT)
    assert unknown is (mode is not Mode.STRICT)


def test_plaintext_passes_whatever_the_mode_while_others_have_not_heard_of_the_capture() -> None:
    pod = pod_in(Mode.STRICT, p8080=Mode.STRICT)
    for port in (8080, 9999):
        assert chosen_chain(plain_in(pod, LOG), Arrived(ADDRESSES[0], port)) is None
        lenient = plain_in(msgspec.structs.replace(pod, lenient=True), LOG)
        assert chosen_chain(lenient, Arrived(ADDRESSES[0], port)) is not None
        assert chosen_chain(lenient, Arrived(ADDRESSES[0], 15007)) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("port", OWN_PORTS)
def test_plaintext_to_a_port_of_troths_own_is_refused_in_every_mode(mode: Mode, port: int) -> None:
    listener = plain_in(pod_in(mode, p8080=mode), LOG)
    assert chosen_chain(listener, Arrived(ADDRESSES[0], port)) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("port", [8080, 9999])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.6", "::1"])
def test_plaintext_to_loopback_from_outside_is_refused_in_every_mode(
    mode: Mode, port: int, address: str
) -> None:
    listener = plain_in(pod_in(mode, p8080=mode), LOG)
    assert chosen_chain(listener, Arrived(address, port)) is None


def test_a_port_that_takes_plaintext_has_a_chain_of_its_own() -> None:
    listener = plain_in(pod_in(Mode.PERMISSIVE, p8080=Mode.PERMISSIVE), LOG)
    by_port = {port: chosen_chain(listener, Arrived(ADDRESSES[0], port)) for port in (8080, 9999)}
    assert by_port == {8080: "plain-8080", 9999: "plain"}


def test_a_change_of_mode_changes_nothing_of_a_listener_but_its_chains_and_their_matcher() -> None:
    kept = set()
    for mode in MODES:
        for port_mode in MODES:
            listener = plain_in(pod_in(mode, p8080=port_mode), LOG)
            listener.ClearField("filter_chains")
            listener.ClearField("filter_chain_matcher")
            kept.add(listener.SerializeToString(deterministic=True))
    assert len(kept) == 1


def test_a_chain_is_the_same_whatever_the_modes_of_other_ports() -> None:
    chains = {
        chain.SerializeToString(deterministic=True)
        for mode in MODES
        for chain in plain_in(pod_in(mode, p80=mode, p8080=Mode.PERMISSIVE), LOG).filter_chains
        if chain.name == "plain-8080"
    }
    assert len(chains) == 1


def test_permissive_and_disable_look_the_same_to_what_enters() -> None:
    one, other = (
        plain_in(pod_in(mode, p8080=mode), LOG) for mode in (Mode.PERMISSIVE, Mode.DISABLE)
    )
    assert one == other
    assert one != plain_in(pod_in(Mode.STRICT, p8080=Mode.STRICT), LOG)


def test_the_tunnels_listener_and_what_leaves_do_not_depend_on_the_mode() -> None:
    pods = [pod_in(mode, p8080=mode) for mode in MODES]
    for one, other in pairwise(pods):
        assert tunnel_in(one, LOG) == tunnel_in(other, LOG)
        assert outbound(one, SERVICES, LOG) == outbound(other, SERVICES, LOG)


@pytest.mark.parametrize("ports", PORT_SETS)
def test_the_listeners_of_a_pod_are_on_the_ports_of_one_set(ports: PortSet) -> None:
    pod = pod_in(Mode.STRICT)
    made = (
        outbound(pod, SERVICES, LOG, ports),
        plain_in(pod, LOG, ports),
        tunnel_in(pod, LOG, ports),
    )
    addresses = [
        [each.address, *(additional.address for additional in each.additional_addresses)]
        for each in made
    ]
    found = [{each.socket_address.port_value for each in listener} for listener in addresses]
    assert found == [{port} for port in ports]


# What enters by the tunnel.


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("name", ["1", "80", "8080", "15000", "15008", "60000", "65535"])
def test_a_server_name_that_is_a_port_leads_to_the_pods_own_address(
    address: str, name: str
) -> None:
    listener = tunnel_in(pod_in(Mode.STRICT), LOG)
    assert chosen_chain(listener, Arrived(address, 15007, name)) == f"tunnel-{address}"


@pytest.mark.parametrize(
    "name",
    [
        *("", "0", "00", "08080", "65536", "65540", "66000", "70000", "99999", "100000"),
        *map(str, OWN_PORTS),
        *("8080 ", " 8080", "8080\n", "8080.", "8080.evil.example", "evil.example", "80:80"),
        *("-1", "+80", "8e3", "0x50", "8_080", "127.0.0.1", "127.0.0.1:80", "[::1]:80"),
        *("٨٠٨٠", "８０８０", "80%0a", "%DOWNSTREAM_LOCAL_PORT%", "*"),  # noqa: RUF001 - hostile digits
    ],
)
def test_any_other_server_name_is_refused(name: str) -> None:
    listener = tunnel_in(pod_in(Mode.DISABLE), LOG)
    assert chosen_chain(listener, Arrived(ADDRESSES[0], 15007, name)) is None


@given(st.text())
def test_a_server_name_is_taken_only_if_it_is_a_port_in_plain_decimal(name: str) -> None:
    listener = tunnel_in(pod_in(Mode.STRICT), LOG)
    if chosen_chain(listener, Arrived(ADDRESSES[0], 15007, name)) is not None:
        assert name == str(int(name))
        assert 0 < int(name) < 65536


def test_a_tunnel_to_an_address_that_is_not_the_pods_is_refused() -> None:
    listener = tunnel_in(pod_in(Mode.STRICT), LOG)
    for address in ("10.244.0.6", "127.0.0.1", "fd74::6"):
        assert chosen_chain(listener, Arrived(address, 15007, "8080")) is None


def test_nothing_is_dialled_before_the_clients_certificate_is_verified() -> None:
    for chain in tunnel_in(pod_in(Mode.STRICT), LOG).filter_chains:
        (proxy,) = tcp_proxies(chain)
        late = tcp_proxy_pb2.UpstreamConnectMode.ON_DOWNSTREAM_TLS_HANDSHAKE
        assert proxy.upstream_connect_mode == late
        assert proxy.max_early_data_bytes.value == 0
        assert chain.HasField("transport_socket")


def test_who_does_not_prove_its_identity_in_time_is_cut_off() -> None:
    for chain in tunnel_in(pod_in(Mode.STRICT), LOG).filter_chains:
        assert 0 < chain.transport_socket_connect_timeout.seconds <= 15


# What leaves.

addresses = st.one_of(
    st.ip_addresses(v=4, network="10.244.0.0/28"), st.ip_addresses(v=6, network="fd74::/124")
).map(str)
ports = st.sampled_from([80, 443, 8080, 15007])
destinations = st.lists(
    st.builds(
        Destination,
        addresses=st.lists(addresses, min_size=1, max_size=2).map(tuple),
        identity=st.sampled_from([WEB, PAYMENTS]),
        tunnel=st.booleans(),
        exceptions=st.frozensets(ports),
    ),
    max_size=6,
).map(lambda them: [each for n, each in enumerate(them) if not shared(each, them[:n])])


def shared(one: Destination, others: list[Destination]) -> bool:
    """Whether ``one`` has an address that another one has."""
    return any(set(one.addresses) & set(other.addresses) for other in others)


def internal_outbound(destinations: list[Destination]) -> Any:
    shared = InternalOutbound(LOG)
    shared.follow(difference({}, {str(n): each for n, each in enumerate(destinations)}), {})
    return shared.build()


@given(destinations, addresses, ports)
def test_a_destination_is_reached_by_the_tunnel_with_its_identity_or_in_plaintext_as_the_view_says(
    known: list[Destination], address: str, port: int
) -> None:
    expected = "plain"
    for destination in known:
        if address in destination.addresses:
            tunnel = destination.tunnel is not (port in destination.exceptions)
            expected = f"tunnel-{destination.identity}" if tunnel else "plain"
    assert chosen_chain(internal_outbound(known), Arrived(address, port)) == expected


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.6", "127.255.0.1", "::1"])
def test_loopback_is_never_dialled_for_a_pod(address: str) -> None:
    assert chosen_chain(internal_outbound([]), Arrived(address, 80)) is None


def test_the_chain_of_an_identity_that_is_gone_stays_for_the_connections_that_it_has() -> None:
    there = {"a": Destination(addresses=("10.244.0.9",), identity=PAYMENTS, tunnel=True)}
    shared = InternalOutbound(LOG, drain_seconds=600)
    arrived = Arrived("10.244.0.9", 80)

    def chains(listener: Any) -> set[bytes]:
        return {each.SerializeToString() for each in listener.filter_chains}

    shared.follow(difference({}, there), {})
    with_it = chains(shared.build(now=50))
    shared.follow(difference(there, {}), there)
    for now in (100, 699):
        listener = shared.build(now=now)
        assert chosen_chain(listener, arrived) == "plain"
        assert chains(listener) == with_it
    shared.follow(difference({}, there), {})
    assert chosen_chain(shared.build(now=699), arrived) == f"tunnel-{PAYMENTS}"
    shared.follow(difference(there, {}), there)
    assert chains(shared.build(now=800)) == with_it  # it counts from the last time on
    assert chains(shared.build(now=1399)) == with_it
    assert [each.name for each in shared.build(now=1400).filter_chains] == ["plain"]


def test_chains_of_identities_that_are_gone_go_when_they_are_due_though_nothing_changes(
    authority: CertificateAuthority,
) -> None:
    keeper = SnapshotKeeper(access_log=LOG, drain_seconds=600)
    world = NodeView(local_pods={"uid-1": pod_in(Mode.STRICT)})

    def chains(now: float, *identities: SpiffeId) -> list[str]:
        there = {
            str(number): Destination(
                addresses=(f"10.244.0.{number}",), identity=identity, tunnel=True
            )
            for number, identity in enumerate(identities)
        }
        view = msgspec.structs.replace(world, destinations=there)
        made = keeper.update(view, [], authority.trust_bundle, now=now)
        listener = listener_pb2.Listener()
        assert made.of_type(LISTENER)[INTERNAL_OUTBOUND].body.Unpack(listener)
        return [each.name for each in listener.filter_chains]

    both = ["plain", f"tunnel-{PAYMENTS}", f"tunnel-{WEB}"]
    assert chains(0, PAYMENTS, WEB) == both
    assert keeper.prune_at is None
    assert chains(100, WEB) == both
    assert chains(130) == both
    assert keeper.prune_at == 100 + 660
    assert chains(759) == both
    assert chains(760) == ["plain"]  # together, though one might have gone earlier
    assert keeper.prune_at is None


def test_the_chain_of_an_identity_pins_the_server_to_exactly_that_identity() -> None:
    listener = internal_outbound(
        [Destination(addresses=("10.244.0.9",), identity=PAYMENTS, tunnel=True)]
    )
    (chain,) = (each for each in listener.filter_chains if each.name.startswith("tunnel-"))
    text = chain.filters[0].typed_config.value
    assert b"envoy.network.upstream_subject_alt_names" in text
    assert str(PAYMENTS).encode() in text
    assert str(WEB).encode() not in text


@pytest.mark.parametrize(
    ("address", "chain"),
    [
        *((address, "service") for address in ("10.96.7.7", "10.97.0.1", "fd74:96::1")),
        *((address, "direct") for address in ("10.97.0.2", "10.244.0.9", "fd74::9")),
    ],
)
def test_only_services_addresses_go_to_service_clusters(address: str, chain: str) -> None:
    ranges = ["10.96.0.0/16", "10.97.0.1", "fd74:96::/112"]
    listener = outbound(pod_in(Mode.STRICT), match_services(ranges, ()), LOG)
    assert chosen_chain(listener, Arrived(address, 80)) == chain
    nowhere = outbound(pod_in(Mode.STRICT), match_services((), ()), LOG)
    assert chosen_chain(nowhere, Arrived(address, 80)) == "direct"


@pytest.mark.parametrize(
    ("address", "port", "chain"),
    [
        *(("192.0.2.1", 80, "service"), ("192.0.2.1", 443, "service")),
        *(("fd99::1", 80, "service"), ("10.96.0.9", 80, "service")),
        *(("192.0.2.1", 22, "direct"), ("fd99::1", 443, "direct"), ("192.0.2.2", 80, "direct")),
        ("10.96.0.9", 22, "service"),
    ],
)
def test_at_other_addresses_than_virtual_ips_only_the_services_ports_go_to_it(
    address: str, port: int, chain: str
) -> None:
    externals = [
        ExternalPort(address=address, number=number)
        for address, number in (("192.0.2.1", 80), ("192.0.2.1", 443), ("fd99::1", 80))
    ]
    services = match_services(["10.96.0.0/16"], externals)
    listener = outbound(pod_in(Mode.STRICT), services, LOG)
    assert chosen_chain(listener, Arrived(address, port)) == chain


def test_a_new_range_of_services_changes_no_chain_and_so_cuts_no_connection() -> None:
    before, after = (
        outbound(pod_in(Mode.STRICT), match_services(ranges, ()), LOG)
        for ranges in ([], ["10.96.0.0/16"])
    )
    assert before != after
    before.ClearField("filter_chain_matcher")
    after.ClearField("filter_chain_matcher")
    assert before == after


# Sockets and clusters.


@pytest.mark.parametrize(
    "build", [tunnel_in, plain_in, lambda pod, log: outbound(pod, SERVICES, log)]
)
@pytest.mark.parametrize("pod_addresses", [ADDRESSES, ADDRESSES[:1], ADDRESSES[1:]])
def test_a_pods_listeners_are_in_its_own_network_namespace(
    build: Any, pod_addresses: tuple[str, ...]
) -> None:
    listener = build(pod_in(Mode.STRICT, pod_addresses), LOG)
    sockets = [listener.address, *(each.address for each in listener.additional_addresses)]
    assert {each.socket_address.network_namespace_filepath for each in sockets} == {NETNS}


@pytest.mark.parametrize("build", [tunnel_in, plain_in])
def test_each_ip_family_has_a_socket_of_its_own(build: Any) -> None:
    listener = build(pod_in(Mode.STRICT), LOG)
    sockets = [listener.address, *(each.address for each in listener.additional_addresses)]
    assert {each.socket_address.address for each in sockets} == {"::", "0.0.0.0"}
    # One for both leads Envoy 1.40 into a crash, once such a listener comes back to its pod.
    assert not any(each.socket_address.ipv4_compat for each in sockets)


def test_every_socket_to_a_pod_or_from_one_is_in_its_namespace_and_carries_the_mark() -> None:
    clusters = {each.name: each for each in pod_clusters(pod_in(Mode.STRICT))}
    assert set(clusters) == {"uid-1|app", "uid-1|plain", "uid-1|tunnel"}
    for cluster in clusters.values():
        bind = cluster.upstream_bind_config
        sources = [bind.source_address, *(each.address for each in bind.extra_source_addresses)]
        assert {each.network_namespace_filepath for each in sources} == {NETNS}
        marks = [(mark.level, mark.name, mark.int_value) for mark in bind.socket_options]
        # Those to the app get their own from the listeners' `original_src`.
        assert marks == ([] if cluster.name.endswith("|app") else [(1, 36, 0x539)])


def test_only_the_tunnel_is_encrypted_and_leads_to_the_tunnels_port() -> None:
    for cluster in pod_clusters(pod_in(Mode.STRICT)):
        is_tunnel = cluster.name.endswith("|tunnel")
        assert cluster.HasField("transport_socket") is is_tunnel
        override = cluster.original_dst_lb_config.upstream_port_override.value
        assert override == (15007 if is_tunnel else 0)


def test_a_service_has_a_cluster_for_each_tcp_port_and_family_with_that_familys_endpoints() -> None:
    service = Service(
        namespace="shop",
        name="web",
        cluster_ips=("10.96.0.9", "fd74:96::9"),
        ports=(
            ServicePort(number=80, endpoints=tuple(Endpoint(each, 8080) for each in ADDRESSES)),
            ServicePort(number=81, endpoints=(Endpoint(ADDRESSES[0], 8081),)),
            ServicePort(number=53, protocol=Protocol.UDP, endpoints=(Endpoint(ADDRESSES[0], 53),)),
        ),
    )
    seen = {
        cluster.name: [
            each.endpoint.address.envoy_internal_address.endpoint_id
            for each in cluster.load_assignment.endpoints[0].lb_endpoints
        ]
        for cluster in service_clusters(service)
    }
    assert seen == {
        "svc|10.96.0.9:80": ["10.244.0.5:8080"],
        "svc|10.96.0.9:81": ["10.244.0.5:8081"],
        "svc|[fd74:96::9]:80": ["[fd74::5]:8080"],
        "svc|[fd74:96::9]:81": [],
    }


def test_clients_stay_with_an_endpoint_only_where_the_service_wants_it() -> None:
    policy = cluster_pb2.Cluster.LbPolicy

    def cluster(*, affinity: bool, endpoints: int) -> Any:
        behind = tuple(Endpoint(f"10.244.0.{n}", 80) for n in range(endpoints))
        port = ServicePort(number=80, endpoints=behind)
        (found,) = service_clusters(
            Service(
                namespace="shop",
                name="web",
                cluster_ips=("10.96.0.9",),
                ports=(port,),
                client_ip_affinity=affinity,
            )
        )
        return found

    assert cluster(affinity=False, endpoints=3).lb_policy == policy.RANDOM
    for endpoints in range(6):
        found = cluster(affinity=True, endpoints=endpoints)
        assert found.lb_policy == policy.RING_HASH
        # As Envoy computes it: the shares of an endpoint don't depend on how many there are.
        size = found.ring_hash_lb_config.minimum_ring_size.value
        assert not endpoints or math.ceil(size / endpoints) == 128


def test_the_client_is_told_only_to_clusters_of_services() -> None:
    listener = outbound(pod_in(Mode.STRICT), SERVICES, LOG)
    told = {
        chain.name: [policy.HasField("source_ip") for policy in proxy.hash_policy]
        for chain in listener.filter_chains
        for proxy in tcp_proxies(chain)
    }
    assert told == {"service": [True], "direct": []}


def test_a_services_port_at_another_address_has_a_cluster_with_the_addresss_family() -> None:
    endpoints = tuple(Endpoint(each, 8080) for each in ADDRESSES)
    port = ExternalPort(
        address="192.0.2.1", number=80, endpoints=endpoints, client_ip_affinity=True
    )
    cluster = external_cluster(port)
    assert cluster.name == "svc|192.0.2.1:80"
    assert cluster.lb_policy == cluster_pb2.Cluster.LbPolicy.RING_HASH
    (only,) = cluster.load_assignment.endpoints[0].lb_endpoints
    assert only.endpoint.address.envoy_internal_address.endpoint_id == "10.244.0.5:8080"


def test_a_headless_service_has_no_cluster() -> None:
    service = Service(namespace="shop", name="web", ports=(ServicePort(number=80),))
    assert list(service_clusters(service)) == []


def test_no_proxy_ends_a_connection_for_being_idle() -> None:
    pod = pod_in(Mode.PERMISSIVE, p8080=Mode.PERMISSIVE)
    known = [Destination(addresses=("10.244.0.9",), identity=PAYMENTS, tunnel=True)]
    proxies = [
        proxy
        for listener in (
            tunnel_in(pod, LOG),
            plain_in(pod, LOG),
            outbound(pod, SERVICES, LOG),
            internal_outbound(known),
        )
        for chain in listener.filter_chains
        for proxy in tcp_proxies(chain)
    ]
    assert len(proxies) == 8
    for proxy in proxies:
        assert proxy.HasField("idle_timeout")
        assert proxy.idle_timeout.ToTimedelta().total_seconds() == 0


# TLS.


def server_tls() -> Any:
    context = tls_pb2.DownstreamTlsContext()
    chain = tunnel_in(pod_in(Mode.DISABLE), LOG).filter_chains[0]
    assert chain.transport_socket.typed_config.Unpack(context)
    return context


def client_tls() -> Any:
    context = tls_pb2.UpstreamTlsContext()
    *_, tunnel = pod_clusters(pod_in(Mode.DISABLE))
    assert tunnel.transport_socket.typed_config.Unpack(context)
    return context


@pytest.mark.parametrize("side", [server_tls, client_tls])
def test_the_tunnel_is_tls_1_3_and_nothing_else_with_certificates_by_identity(side: Any) -> None:
    common = side().common_tls_context
    tls_1_3 = 4  # TlsParameters.TLSv1_3
    assert common.tls_params.tls_minimum_protocol_version == tls_1_3
    assert common.tls_params.tls_maximum_protocol_version == tls_1_3
    assert common.alpn_protocols == ["troth"]
    (certificate,) = common.tls_certificate_sds_secret_configs
    assert certificate.name == "spiffe://cluster.local/ns/shop/sa/web"
    assert common.validation_context_sds_secret_config.name == "spiffe://cluster.local"


def test_the_server_insists_on_a_certificate_and_resumes_no_session() -> None:
    context = server_tls()
    assert context.require_client_certificate.value
    assert context.disable_stateless_session_resumption
    assert context.disable_stateful_session_resumption


def test_the_client_keeps_no_session_to_resume() -> None:
    context = client_tls()
    assert context.HasField("max_session_keys")
    assert context.max_session_keys.value == 0


def test_the_secret_of_an_identity_is_its_chain_and_key(svid: X509Svid) -> None:
    secret = svid_secret(svid)
    assert secret.name == str(WEB)
    assert secret.tls_certificate.certificate_chain.inline_bytes == svid.chain
    assert secret.tls_certificate.private_key.inline_bytes == svid.private_key.reveal()


def test_the_bundle_vouches_only_for_identities_of_its_trust_domain(
    authority: CertificateAuthority,
) -> None:
    secret = bundle_secret(authority.trust_bundle)
    assert secret.name == "spiffe://cluster.local"
    assert secret.validation_context.trusted_ca.inline_bytes == authority.trust_bundle.pem
    (matcher,) = secret.validation_context.match_typed_subject_alt_names
    uri = 3  # SubjectAltNameMatcher.URI
    assert matcher.san_type == uri
    pattern = re.compile(matcher.matcher.safe_regex.regex)
    assert pattern.fullmatch(str(WEB))
    for other in ("spiffe://cluster.local", "spiffe://cluster.local/", "spiffe://cluster-local/a"):
        assert not pattern.fullmatch(other)
    assert not pattern.fullmatch("spiffe://cluster.local.evil.example/ns/shop/sa/web")


# The whole.


def view() -> NodeView:
    return NodeView(
        local_pods={"uid-1": pod_in(Mode.STRICT, p8080=Mode.PERMISSIVE, p80=Mode.DISABLE)},
        destinations={
            "uid-1": Destination(
                addresses=ADDRESSES, identity=WEB, tunnel=True, exceptions=frozenset({80, 8080})
            ),
            "uid-4": Destination(
                addresses=("10.244.0.4",),
                identity=WEB,
                tunnel=True,
                exceptions=frozenset({80, 8080}),
            ),
            "uid-9": Destination(addresses=("10.244.0.9",), identity=PAYMENTS, tunnel=False),
        },
        services={"shop/web": Service(namespace="shop", name="web", cluster_ips=("10.96.0.9",))},
        service_ranges=("10.96.0.0/16",),
    )


def versions(of: NodeView, svid: X509Svid) -> dict[str, str]:
    snapshot = build_snapshot(of, [svid], svid.bundle, access_log=LOG)
    return {
        f"{type_url} {name}": each.version
        for type_url, resources in snapshot.types.items()
        for name, each in resources.items()
    }


def test_the_same_view_makes_the_same_versions(svid: X509Svid) -> None:
    reordered = msgspec.structs.replace(
        view(), destinations=dict(list(view().destinations.items())[::-1])
    )
    assert versions(view(), svid) == versions(view(), svid) == versions(reordered, svid)


def test_a_new_destination_changes_one_listener_and_nothing_else(svid: X509Svid) -> None:
    more = msgspec.structs.replace(view(), destinations={"uid-1": view().destinations["uid-1"]})
    before, after = versions(view(), svid), versions(more, svid)
    changed = {name for name in before if before[name] != after[name]}
    assert {name.rpartition(".")[2] for name in changed} == {"Listener outbound"}


def test_a_change_of_policy_changes_the_pods_plain_listener_alone(svid: X509Svid) -> None:
    eased = msgspec.structs.replace(view(), local_pods={"uid-1": pod_in(Mode.PERMISSIVE)})
    before, after = versions(view(), svid), versions(eased, svid)
    changed = {name for name in before if before[name] != after[name]}
    assert {name.rpartition(".")[2] for name in changed} == {"Listener plain-in|uid-1"}


def test_nothing_holds_back_more_than_a_little_for_an_end_that_does_not_read(
    svid: X509Svid,
) -> None:
    snapshot = build_snapshot(view(), [svid], svid.bundle, access_log=LOG)
    for type_url, message in (
        (CLUSTER, cluster_pb2.Cluster()),
        (LISTENER, listener_pb2.Listener()),
    ):
        for resource in snapshot.of_type(type_url).values():
            assert resource.body.Unpack(message)
            assert message.per_connection_buffer_limit_bytes.value == BUFFER_BYTES, resource


def test_every_socket_in_a_pod_has_keepalive(svid: X509Svid) -> None:
    snapshot = build_snapshot(view(), [svid], svid.bundle, access_log=LOG)
    listener, cluster = listener_pb2.Listener(), cluster_pb2.Cluster()
    for resource in snapshot.of_type(LISTENER).values():
        assert resource.body.Unpack(listener)
        options = [] if listener.HasField("internal_listener") else [1, 60, 15, 4]
        assert [each.int_value for each in listener.socket_options] == options
    for resource in snapshot.of_type(CLUSTER).values():
        assert resource.body.Unpack(cluster)
        has_sockets = cluster.type == cluster_pb2.Cluster.DiscoveryType.ORIGINAL_DST
        assert cluster.upstream_connection_options.HasField("tcp_keepalive") == has_sockets


def test_a_pod_that_comes_or_goes_changes_the_limits_and_a_policy_does_not(
    svid: X509Svid,
) -> None:
    keeper = SnapshotKeeper(access_log=LOG, pod_connections=7)

    def limits(local_pods: dict[str, LocalPod]) -> dict[str, float]:
        of = msgspec.structs.replace(view(), local_pods=local_pods)
        [resource] = keeper.update(of, [svid], svid.bundle).of_type(RUNTIME).values()
        layer = rtds_pb2.Runtime()
        assert resource.body.Unpack(layer)
        return {key: value.number_value for key, value in layer.layer.fields.items()}

    one = limits({"uid-1": pod_in(Mode.STRICT)})
    assert set(one.values()) == {7}
    assert len(one) == 3
    assert limits({"uid-1": pod_in(Mode.PERMISSIVE)}) == one
    assert limits({}) == {}


def tcp_proxies(chain: Any) -> list[Any]:
    """The tcp_proxy filters of a chain."""
    proxies = []
    for each in chain.filters:
        proxy = tcp_proxy_pb2.TcpProxy()
        if each.typed_config.Unpack(proxy):
            proxies.append(proxy)
    return proxies
