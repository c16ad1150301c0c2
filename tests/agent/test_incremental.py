"""However it came about, what Envoy is told is what the world as it is now makes from scratch."""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from troth.envoy.build import SnapshotKeeper, build_snapshot
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.svid import X509Svid
from troth.mesh.model import ContainerPort, Endpoint, Pod, Service, ServicePort
from troth.mesh.view import ViewKeeper, node_view
from troth.mesh.world import World
from troth.policy.model import Mode, PeerAuthentication
from troth.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.identity.bundle import TrustBundle

LOG = Path("/run/log")
NAMESPACES = ("shop", "bank")
ACCOUNTS = ("web", "api")
START = datetime(2026, 1, 1, tzinfo=UTC)
TRUST_DOMAIN = TrustDomain.parse("cluster.local")
AUTHORITY = CertificateAuthority.self_signed(TRUST_DOMAIN, START)
BUNDLES = (
    AUTHORITY.trust_bundle,
    AUTHORITY.trust_bundle.merge(
        CertificateAuthority.self_signed(TRUST_DOMAIN, START).trust_bundle
    ),
)


def svid(namespace: str, account: str) -> X509Svid:
    identity = SpiffeId.for_service_account(TRUST_DOMAIN, namespace, account)
    key = new_key()
    chain = AUTHORITY.sign(build_csr(key, identity), now=START).chain
    return X509Svid.assemble(key, chain, AUTHORITY.trust_bundle, now=START)


SVIDS = [svid(*each) for each in (("shop", "web"), ("shop", "web"), ("bank", "api"))]

modes = st.sampled_from(Mode)
pod_addresses = st.sampled_from(
    [(), ("10.244.0.1",), ("10.244.0.2",), ("10.244.0.1", "fd74::1"), ("192.0.2.1",)]
)
pods = st.builds(
    Pod,
    uid=st.sampled_from(["uid-1", "uid-2", "uid-3", "uid-4"]),
    namespace=st.sampled_from(NAMESPACES),
    name=st.just("pod"),
    service_account=st.sampled_from(ACCOUNTS),
    labels=st.sampled_from([{}, {"app": "a"}, {"app": "a", "v": "1"}, {"app": "b"}]),
    addresses=pod_addresses,
    ports=st.sampled_from([(), (ContainerPort(number=80),)]),
    captured=st.sampled_from([True, True, False]),
    ready=st.booleans(),
)
policies = st.builds(
    PeerAuthentication,
    namespace=st.sampled_from([*NAMESPACES, "istio-system"]),
    name=st.sampled_from("abc"),
    selector=st.sampled_from([{}, {}, {"app": "a"}, {"v": "1", "app": "a"}]),
    mode=modes,
    port_modes=st.dictionaries(st.sampled_from([80, 81]), modes, max_size=1),
)
endpoints = st.sampled_from([(), (Endpoint("10.244.0.1", 80),)])
services = st.builds(
    Service,
    namespace=st.sampled_from(NAMESPACES),
    name=st.just("web"),
    external_ips=st.sampled_from([(), ("192.0.2.1",), ("10.244.0.1", "192.0.2.1")]),
    load_balancer_ips=st.sampled_from([(), (), ("192.0.2.1",)]),
    ports=st.builds(
        ServicePort, number=st.just(80), endpoints=endpoints, external_endpoints=endpoints
    ).map(lambda port: (port,)),
)
VIRTUAL_IPS = {"shop": ("10.96.0.1",), "bank": ("172.20.0.1",)}
"""One in the ranges of services, and one outside of them."""


UIDS = ("uid-1", "uid-2", "uid-3", "uid-4")
LOCAL = UIDS[:2]


def after(table: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """A mapping of the same kind with some entries changed; None removes one."""
    gone = {key for key, value in changes.items() if value is None}
    there = {key: value for key, value in changes.items() if value is not None}
    if isinstance(table, Table):
        return table.changed(there, gone)
    return {key: value for key, value in {**table, **there}.items() if key not in gone}


class Mesh(RuleBasedStateMachine):
    """A node of a mesh in which anything may change, one thing or several at once."""

    @initialize(shares=st.booleans(), known=st.lists(pods, min_size=4, unique_by=lambda p: p.uid))
    def begin(self, *, shares: bool, known: list[Pod]) -> None:
        # Some sources give worlds that share what is the same, others make all anew.
        self.pods: Mapping[str, Pod] = Table() if shares else {}
        self.pods = after(self.pods, {pod.uid: pod for pod in known})
        self.services: Mapping[str, Service] = Table() if shares else {}
        self.policies: tuple[PeerAuthentication, ...] = ()
        self.root_namespace = "istio-system"
        self.ranges: tuple[str, ...] = ("10.96.0.0/16",)
        self.netns = {"uid-1": "/n/1"}
        self.lenient: set[str] = set()
        self.svids: dict[SpiffeId, X509Svid] = {}
        self.trusted = BUNDLES[0]
        self.views = ViewKeeper()
        self.snapshots = SnapshotKeeper(access_log=LOG)

    @rule(pod=pods)
    def put_pod(self, pod: Pod) -> None:
        self.pods = after(self.pods, {pod.uid: pod})

    @rule(uid=st.sampled_from(UIDS), addresses=pod_addresses)
    def move_pod(self, uid: str, addresses: tuple[str, ...]) -> None:
        if uid in self.pods:
            moved = msgspec.structs.replace(self.pods[uid], addresses=addresses, captured=True)
            self.pods = after(self.pods, {uid: moved})

    @rule(uid=st.sampled_from(UIDS))
    def remove_pod(self, uid: str) -> None:
        self.pods = after(self.pods, {uid: None})

    @rule(policy=policies)
    def put_policy(self, policy: PeerAuthentication) -> None:
        self.policies = (*(p for p in self.policies if p.key != policy.key), policy)

    @rule(which=st.integers(0, 5))
    def remove_policy(self, which: int) -> None:
        self.policies = self.policies[:which] + self.policies[which + 1 :]

    @rule(service=services)
    def put_service(self, service: Service) -> None:
        known = msgspec.structs.replace(service, cluster_ips=VIRTUAL_IPS[service.namespace])
        self.services = after(self.services, {str(known): known})

    @rule(namespace=st.sampled_from(NAMESPACES))
    def remove_service(self, namespace: str) -> None:
        self.services = after(self.services, {f"{namespace}/web": None})

    @rule(uid=st.sampled_from(LOCAL), path=st.sampled_from([None, "/n/1", "/n/2"]))
    def enter_or_leave(self, uid: str, path: str | None) -> None:
        self.netns.pop(uid, None)
        if path is not None:
            self.netns[uid] = path

    @rule(uid=st.sampled_from(LOCAL))
    def announce(self, uid: str) -> None:
        self.lenient ^= {uid}

    @rule(issued=st.sampled_from([None, *SVIDS]), bundle=st.sampled_from(BUNDLES))
    def certify(self, issued: X509Svid | None, bundle: TrustBundle) -> None:
        self.trusted = bundle
        self.svids = {} if issued is None else {**self.svids, issued.spiffe_id: issued}

    @rule(
        root_namespace=st.sampled_from(["istio-system", "bank"]),
        ranges=st.sampled_from([("10.96.0.0/16",), ("10.96.0.0/16", "172.20.0.0/16")]),
    )
    def configure(self, root_namespace: str, ranges: tuple[str, ...]) -> None:
        self.root_namespace, self.ranges = root_namespace, ranges

    @rule()
    def read_everything_again(self) -> None:
        """As a source does that lists anew: all is equal, and nothing the same."""
        self.pods = after(self.pods, {uid: copy(pod) for uid, pod in self.pods.items()})
        self.policies = tuple(copy(policy) for policy in self.policies)

    @rule()
    def what_was_changed_is_what_would_be_made_anew(self) -> None:
        world = World(
            trust_domain=TRUST_DOMAIN,
            root_namespace=self.root_namespace,
            pods=self.pods,
            services=self.services,
            policies=self.policies,
        )
        view = self.views.update(
            world, netns=self.netns, lenient=self.lenient, service_ranges=self.ranges
        )
        assert view == node_view(
            world, netns=self.netns, lenient=self.lenient, service_ranges=self.ranges
        )
        svids = tuple(self.svids.values())
        snapshot = self.snapshots.update(view, svids, self.trusted)
        assert snapshot == build_snapshot(view, svids, self.trusted, access_log=LOG)

    def teardown(self) -> None:
        self.what_was_changed_is_what_would_be_made_anew()


Mesh.TestCase.settings = settings(stateful_step_count=40)
TestMesh = Mesh.TestCase
