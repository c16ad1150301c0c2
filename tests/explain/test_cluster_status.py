"""How a mesh in a cluster is, from what the API server knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from troth.cluster.contract import (
    REPORT_SECONDS,
    SILENCE,
    NodeReport,
    PodTrouble,
    policy_digest,
)
from troth.cluster.installation import Installation, Lease, ReportedNode, TrustBundleMap
from troth.errors import Problem, Severity
from troth.explain.cluster_status import cluster_status
from troth.identity.authority import CertificateAuthority
from troth.identity.profile import root_fingerprint
from troth.identity.spiffe import TrustDomain
from troth.mesh.model import MESH_LABEL, ContainerPort, Namespace, Pod, PodPhase
from troth.policy.model import Mode, PeerAuthentication

if TYPE_CHECKING:
    from troth.explain.cluster_status import ClusterStatus

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DOMAIN = TrustDomain.parse("cluster.local")
ROOT = CertificateAuthority.self_signed(DOMAIN, NOW).trust_bundle.certificates[0]
BUNDLE = TrustBundleMap(
    namespace="troth-system", pem=ROOT.decode(), signing_root=root_fingerprint(ROOT)
)
STORED = frozenset({("u1", 1)})
POLICY = PeerAuthentication(
    namespace="shop",
    name="web",
    selector={"app": "web"},
    mode=Mode.STRICT,
    port_modes={9090: Mode.DISABLE},
)
WEB = Pod(
    uid="1",
    namespace="shop",
    name="web",
    labels={"app": "web"},
    service_account="web",
    node="node-1",
    addresses=("10.0.0.1",),
    ports=(ContainerPort(number=8080),),
    captured=True,
    ready=True,
)
REPORT = NodeReport(policies=policy_digest(STORED))
GOOD = Installation(
    namespaces={
        "shop": Namespace(name="shop", labels={MESH_LABEL: "enabled"}),
        "legacy": Namespace(name="legacy"),
    },
    pods=(WEB,),
    policies=(POLICY,),
    stored_policies=STORED,
    nodes=(),
    leader=Lease(holder_identity="controller-1", lease_duration_seconds=15, renew_time=NOW),
    bundles={
        "troth-system": BUNDLE,
        "shop": msgspec.structs.replace(BUNDLE, namespace="shop"),
    },
)


def reported(report: NodeReport | None = REPORT, **fields: Any) -> ReportedNode:
    lease = Lease(holder_identity="node-1", lease_duration_seconds=REPORT_SECONDS, renew_time=NOW)
    return ReportedNode(
        node="node-1", lease=msgspec.structs.replace(lease, **fields), report=report
    )


def told(**fields: Any) -> NodeReport:
    return msgspec.structs.replace(REPORT, **fields)


def status(**changes: Any) -> ClusterStatus:
    found = msgspec.structs.replace(GOOD, **{"nodes": (reported(),), **changes})
    return cluster_status(
        found, home="troth-system", root_namespace="istio-system", trust_domain=DOMAIN, now=NOW
    )


def web(**changes: Any) -> tuple[Pod, ...]:
    return (msgspec.structs.replace(WEB, **changes),)


def test_nothing_is_missing_where_all_is_well() -> None:
    found = status()
    assert (found.ready, found.waiting_for) == (True, ())
    (pod,) = found.pods
    assert pod.identity == "spiffe://cluster.local/ns/shop/sa/web"
    assert (pod.mode, str(pod.decided_by)) == (Mode.STRICT, "shop/web (workload)")
    assert {number: port.mode for number, port in pod.ports.items()} == {
        8080: Mode.STRICT,
        9090: Mode.DISABLE,
    }
    assert found.trust_bundle is not None
    (root,) = found.trust_bundle.roots
    assert (root.signing, root.expires > NOW) == (True, True)


def test_what_troth_does_not_enforce_in_the_mesh_is_told_once() -> None:
    rules = tuple(f"shop/rule-{number}" for number in range(5))
    found = status(
        unenforced={
            "AuthorizationPolicy.security.istio.io": (*rules, "elsewhere/rule"),
            "DestinationRule.networking.istio.io": ("elsewhere/rule",),
        }
    )
    (problem,) = found.problems
    assert (problem.subject, problem.severity) == (
        "AuthorizationPolicy.security.istio.io",
        Severity.WARNING,
    )
    assert problem.found == (
        "isn't enforced in namespaces of the mesh (shop/rule-0, shop/rule-1, shop/rule-2 and 2 "
        "more): nobody is refused for what it says"
    )
    assert found.ready


def test_a_node_where_others_pass_for_the_kubelet_is_told_and_no_less_ready() -> None:
    found = status(nodes=(reported(told(leniency="no kubelet listens on port 10250")),))
    (problem,) = found.problems
    assert (problem.subject, problem.severity) == ("Node node-1", Severity.WARNING)
    assert problem.found.endswith("in STRICT pods: no kubelet listens on port 10250")
    assert found.ready


def test_pods_of_other_namespaces_are_not_missed_where_one_is_asked_for() -> None:
    found = status(namespace="shop", nodes=(reported(told(captured=3)),))
    assert found.ready
    (node,) = found.nodes or ()
    assert node.captured == 3


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        pytest.param(
            {"pods": web(captured=False)},
            "the capture of pod shop/web: the agent of node node-1 has not captured it yet",
            id="not captured",
        ),
        pytest.param(
            {
                "pods": web(captured=False),
                "nodes": (reported(told(uncaptured={"shop/web": PodTrouble(why="no nft")})),),
            },
            "the capture of pod shop/web: no nft",
            id="not captured for long",
        ),
        pytest.param(
            {
                "pods": web(captured=False),
                "nodes": (reported(told(unmarked={"shop/web": PodTrouble(why="forbidden")})),),
            },
            "the capture of pod shop/web: it is, but can't be marked as captured: forbidden",
            id="not marked",
        ),
        pytest.param(
            {"pods": web(labels={MESH_LABEL: "disabled"})},
            f"the release of pod shop/web: the pod is labelled {MESH_LABEL}: disabled",
            id="not released",
        ),
        pytest.param({"nodes": ()}, "node node-1: no agent reports", id="no agent"),
        pytest.param(
            {"nodes": (reported(renew_time=NOW - timedelta(seconds=20)),)},
            f"node node-1: {SILENCE}",
            id="a silent agent",
        ),
        pytest.param(
            {"nodes": (reported(renew_time=None),)},
            f"node node-1: {SILENCE}",
            id="an agent that never renewed",
        ),
        pytest.param(
            {"nodes": (reported(NodeReport(policies="", trouble="no nft")),)},
            "node node-1: no nft",
            id="trouble",
        ),
        pytest.param(
            {"nodes": (reported(NodeReport(policies="")),)},
            "node node-1: not every policy is in force there yet",
            id="an old policy",
        ),
        pytest.param(
            {"nodes": (reported(told(joining=frozenset({"shop"}))),)},
            "node node-1: pods of shop have just joined the mesh, and still take plaintext",
            id="a pod that joins",
        ),
        pytest.param(
            {"nodes": (reported(told(captured=3)),)},
            "node node-1: pods that are out of the mesh are still to be released: 2",
            id="pods that leave",
        ),
        pytest.param(
            {"nodes": (reported(None),)},
            "node node-1: its agent's report can't be read, so it may be of another version of "
            "troth",
            id="an unreadable report",
        ),
        pytest.param(
            {"leader": None},
            "a controller: none leads in namespace troth-system",
            id="no controller",
        ),
        pytest.param(
            {"leader": Lease(holder_identity="", lease_duration_seconds=1, renew_time=NOW)},
            "a controller: none leads in namespace troth-system",
            id="a lease given back",
        ),
        pytest.param(
            {
                "leader": Lease(
                    holder_identity="c",
                    lease_duration_seconds=15,
                    renew_time=datetime.min.replace(tzinfo=UTC),
                )
            },
            "a controller: c led last, and is silent",
            id="a silent controller",
        ),
        pytest.param(
            {"bundles": {}},
            "roots to believe in: ConfigMap troth-system/troth-trust-bundle has none",
            id="no roots",
        ),
        pytest.param(
            {"bundles": {"troth-system": BUNDLE}}, "the roots in namespace shop", id="no copy"
        ),
        pytest.param(
            {
                "bundles": {
                    "troth-system": BUNDLE,
                    "shop": TrustBundleMap(namespace="shop", pem="", signing_root=""),
                }
            },
            "the roots in namespace shop",
            id="another copy",
        ),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, Any], missing: str) -> None:
    found = status(**changes)
    assert found.waiting_for[0] == missing
    assert not found.ready


def test_a_root_that_has_expired_is_missed() -> None:
    late = NOW + timedelta(days=365 * 100)
    found = cluster_status(
        GOOD, home="troth-system", root_namespace="istio-system", trust_domain=DOMAIN, now=late
    )
    assert any("has expired" in each for each in found.waiting_for)


@pytest.mark.parametrize(
    ("pods", "why"),
    [
        pytest.param(
            web(captured=False, node="", addresses=()),
            "it is not bound to a node yet",
            id="not bound",
        ),
        pytest.param(web(captured=False, addresses=()), "it has no address yet", id="no address"),
        pytest.param(
            web(captured=False, terminating=True),
            "the agent of node node-1 has not captured it yet",
            id="terminating",
        ),
        pytest.param(
            web(captured=False, host_network=True),
            "the pod is on its node's network (hostNetwork), so not captured",
            id="host network",
        ),
    ],
)
def test_a_pod_that_can_not_be_captured_is_told_of_and_not_waited_for(
    pods: tuple[Pod, ...], why: str
) -> None:
    found = status(pods=pods)
    assert found.pods[0].why == why
    assert found.ready


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param(web(phase=PodPhase.SUCCEEDED), id="one that has ended"),
        pytest.param(web(namespace="legacy", captured=False), id="one outside the mesh"),
    ],
)
def test_pods_that_are_no_business_of_the_mesh_are_left_out(pods: tuple[Pod, ...]) -> None:
    assert status(pods=pods).pods == ()


def test_a_clock_that_differs_a_little_is_forgiven() -> None:
    for lag in (-18, 30):
        lease = msgspec.structs.replace(GOOD.leader, renew_time=NOW + timedelta(seconds=lag))  # type: ignore[type-var]  # it has one
        assert status(leader=lease).ready


def test_what_may_not_be_read_is_null_and_no_claim_is_made_of_it() -> None:
    problem = Problem(subject="leases", path="", found="no permission", wanted="have it")
    found = status(nodes=None, leader=None, bundles=None, stored_policies=None, problems=(problem,))
    assert (found.nodes, found.controller, found.trust_bundle) == (None, None, None)
    assert found.waiting_for == ()
    assert not found.ready
    unknown = status(stored_policies=None)
    assert unknown.nodes is not None
    assert unknown.nodes[0].enforces_all is None


def test_roots_that_are_none_are_a_problem() -> None:
    bad = TrustBundleMap(namespace="troth-system", pem="junk", signing_root="")
    found = status(bundles={"troth-system": bad})
    assert {each.subject for each in found.problems} == {
        "ConfigMap troth-system/troth-trust-bundle"
    }
    assert not found.ready
