from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.explain.notation import objects
from tests.explain.seen import NOON, at, connection, observed, pod, policy, world

from troth.errors import Problem
from troth.explain.audit import Known, audit
from troth.explain.audit_report import PortState
from troth.explain.front_doors import Breakage, FrontDoors
from troth.explain.noted import seen_in_plaintext
from troth.explain.plan import plan
from troth.mesh.model import Endpoint, Protocol, Service, ServicePort
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode, PeerAuthentication
from troth.policy.parse import parse_peer_authentication
from troth.traffic.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.explain.audit_report import Audit, WorkloadAudit
    from troth.mesh.world import World

TUNNEL = "finance/web > finance/payments:8080 accepted"
METRICS = "finance/web > finance/payments:9090 accepted"
CRON = "legacy/cron > finance/payments:8080 plaintext"
WEB = "finance/payments > finance/web:8080 accepted"


def judged(
    *lines: str | Connection,
    now: World | None = None,
    told: Mapping[str, object] | None = None,
    **options: Any,
) -> Audit:
    """Audit ``now`` after the connections of these lines; ``told`` is what agents say beside."""
    now = now or world()
    seen = [each if isinstance(each, Connection) else connection(each, now) for each in lines]
    return audit(observed(seen, now, **(told or {})), since=NOON, now=NOON, **options)


def workload(report: Audit, name: str) -> WorkloadAudit:
    return next(each for each in report.workloads if each.key == name)


def states(report: Audit, name: str = "finance/payments") -> dict[int, str]:
    return {number: str(port.state) for number, port in workload(report, name).ports.items()}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], {8080: "no traffic", 9090: "no traffic"}, id="nobody came"),
        pytest.param([TUNNEL], {8080: "ready", 9090: "no traffic"}, id="by the tunnel alone"),
        pytest.param([CRON], {8080: "plaintext", 9090: "no traffic"}, id="in plaintext alone"),
        pytest.param([TUNNEL, CRON, METRICS], {8080: "plaintext", 9090: "ready"}, id="both"),
        pytest.param(
            ["192.0.2.7 > finance/payments:7000 plaintext"],
            {7000: "plaintext", 8080: "no traffic", 9090: "no traffic"},
            id="at a port that is not declared",
        ),
        pytest.param(
            [
                "legacy/cron > finance/payments:8080 refused plaintext_to_strict",
                "legacy/cron > finance/payments:7 failed app_unreachable",
            ],
            {8080: "no traffic", 9090: "no traffic"},
            id="what didn't get through counts for nothing",
        ),
    ],
)
def test_a_port_is_ready_when_all_of_its_traffic_comes_by_the_tunnel(
    lines: list[str], expected: dict[int, str]
) -> None:
    assert states(judged(*lines)) == expected


@pytest.mark.parametrize(
    ("mode", "state"), [(Mode.STRICT, PortState.STRICT), (Mode.DISABLE, PortState.DISABLED)]
)
def test_a_port_whose_mode_is_set_is_told_by_it(mode: Mode, state: PortState) -> None:
    now = world(policy("finance/p", mode, port=9090, app="payments"))
    report = judged(METRICS, "legacy/cron > finance/payments:9090 plaintext", now=now)
    port = workload(report, "finance/payments").ports[9090]
    assert (port.state, str(port.decided_by)) == (state, "finance/p (workload)")
    assert port.because_of == ()


def test_who_speaks_plaintext_is_named_the_most_frequent_first() -> None:
    report = judged(
        CRON,
        *(
            at(n, connection("192.0.2.7 > finance/payments:8080 plaintext", world()))
            for n in (1, 2)
        ),
    )
    clients = workload(report, "finance/payments").ports[8080].because_of
    assert [(each.source, each.count) for each in clients] == [("192.0.2.7", 2), ("legacy/cron", 1)]
    assert clients[0].last == NOON + timedelta(seconds=2)


@pytest.mark.parametrize(
    ("source", "state"), [("finance/web", "ready"), ("legacy/cron", "plaintext")]
)
def test_plaintext_that_disable_had_a_captured_client_speak_is_no_obstacle(
    source: str, state: str
) -> None:
    then = world(policy("finance/default", Mode.DISABLE))
    spoken = connection(f"{source} > finance/payments:8080 plaintext", then)
    assert states(judged(spoken, TUNNEL))[8080] == state


@pytest.mark.parametrize(
    ("pods", "name", "ready"),
    [
        pytest.param([pod("finance/web", 8080)], "finance/web", False, id="no traffic"),
        pytest.param([pod("finance/web")], "finance/web", True, id="listens nowhere"),
        pytest.param([pod("finance/web", captured=False)], "finance/web", False, id="not captured"),
    ],
)
def test_a_workload_is_ready_when_it_is_captured_and_all_of_its_ports_are(
    pods: list[Any],
    name: str,
    ready: bool,  # noqa: FBT001 - a column
) -> None:
    report = judged(now=world(pods=pods), told={"not_captured": {"finance/web": "no certificate"}})
    assert workload(report, name).ready is ready
    assert report.ready is ready
    assert ("no certificate" in workload(report, name).why) is not pods[0].captured


def test_workloads_outside_the_mesh_are_not_judged() -> None:
    assert [each.key for each in judged().workloads] == ["finance/payments", "finance/web"]


def test_ports_that_a_service_leads_to_are_judged_though_no_container_declares_them() -> None:
    ports = (
        ServicePort(number=80, endpoints=(Endpoint("10.0.1.2", 7070),)),
        ServicePort(number=53, protocol=Protocol.UDP, endpoints=(Endpoint("10.0.1.2", 5353),)),
    )
    now = world(services=[Service(namespace="finance", name="payments", ports=ports)])
    assert states(judged(now=now)) == {
        7070: "no traffic",
        8080: "no traffic",
        9090: "no traffic",
    }


def test_pairs_are_counted_by_what_became_of_their_connections() -> None:
    report = judged(
        TUNNEL,
        at(1, connection(TUNNEL, world())),
        CRON,
        "legacy/cron > finance/payments:8080 refused plaintext_to_strict",
        "legacy/cron > finance/web:9 failed app_unreachable",
    )
    assert [
        (p.source, p.destination, p.port, p.tunnel, p.plaintext, p.refused) for p in report.pairs
    ] == [
        ("finance/web", "finance/payments", 8080, 2, 0, 0),
        ("legacy/cron", "finance/payments", 8080, 0, 1, 1),
    ]
    assert report.pairs[0].last == NOON + timedelta(seconds=1)


Manifest = dict[str, Any]


def proposed(report: Audit) -> list[Mapping[str, Any]]:
    return [each.manifest for each in report.policies]


def manifest(name: str, spec: Manifest) -> Manifest:
    namespace, _, own = name.partition("/")
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": own, "namespace": namespace},
        "spec": spec,
    }


PAYMENTS_STRICT: Manifest = {
    "selector": {"matchLabels": {"app": "payments"}},
    "mtls": {"mode": "STRICT"},
}


def test_a_namespace_whose_workloads_are_all_ready_gets_one_policy() -> None:
    report = judged(TUNNEL, METRICS, WEB)
    assert report.ready
    assert proposed(report) == [manifest("finance/default", {"mtls": {"mode": "STRICT"}})]
    assert report.policies[0].workloads == ("finance/payments", "finance/web")
    assert report.left_out == ()


def test_a_workload_that_is_ready_among_others_gets_a_policy_of_its_own() -> None:
    report = judged(TUNNEL, METRICS)
    assert proposed(report) == [manifest("finance/payments-mtls", PAYMENTS_STRICT)]
    assert [(each.workload, each.why) for each in report.left_out] == [
        ("finance/web", "port 8080 has had no traffic")
    ]


@pytest.mark.parametrize(
    ("metrics", "kept", "why"),
    [
        pytest.param(
            ["legacy/cron > finance/payments:9090 plaintext"],
            "PERMISSIVE",
            "port 9090 takes plaintext from legacy/cron",
            id="plaintext",
        ),
        pytest.param([], "PERMISSIVE", "port 9090 has had no traffic", id="no traffic"),
    ],
)
def test_ports_that_are_not_ready_are_left_as_they_are(
    metrics: list[str], kept: str, why: str
) -> None:
    report = judged(TUNNEL, *metrics)
    spec = {**PAYMENTS_STRICT, "portLevelMtls": {9090: {"mode": kept}}}
    assert proposed(report) == [manifest("finance/payments-mtls", spec)]
    assert report.policies[0].exceptions == {9090: why}


def test_nothing_is_proposed_for_a_workload_without_a_ready_port() -> None:
    report = judged(CRON)
    assert proposed(report) == []
    assert [each.why for each in report.left_out] == [
        "port 8080 takes plaintext from legacy/cron; port 9090 has had no traffic",
        "port 8080 has had no traffic",
    ]


def test_nothing_is_proposed_where_all_is_strict() -> None:
    report = judged(TUNNEL, now=world(policy("istio-system/default", Mode.STRICT)))
    assert report.ready
    assert (report.policies, report.left_out) == ((), ())


def test_a_namespace_with_a_policy_of_its_own_gets_policies_by_workload() -> None:
    now = world(policy("finance/open", Mode.PERMISSIVE))
    report = judged(TUNNEL, METRICS, WEB, now=now)
    assert [each["metadata"]["name"] for each in proposed(report)] == ["payments-mtls", "web-mtls"]


def test_a_workload_with_a_policy_of_its_own_is_left_to_its_owner() -> None:
    now = world(policy("finance/open", Mode.PERMISSIVE, app="payments"))
    report = judged(TUNNEL, METRICS, WEB, now=now)
    assert proposed(report) == [
        manifest(
            "finance/web-mtls",
            {"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "STRICT"}},
        )
    ]
    assert [each.why for each in report.left_out] == [
        "has a policy of its own, finance/open: change that one"
    ]


def test_names_that_are_taken_are_not_used_again() -> None:
    now = world(policy("finance/payments-mtls", Mode.STRICT, app="other"))
    report = judged(TUNNEL, METRICS, now=now)
    assert [each["metadata"]["name"] for each in proposed(report)] == ["payments-mtls-2"]


def test_a_workload_is_selected_by_the_labels_that_select_its_pods() -> None:
    labels = {"app": "payments", "tier": "back", "pod-template-hash": "5d9c"}
    labels["apps.kubernetes.io/pod-index"] = "0"
    now = world(pods=[pod("finance/payments", 8080, labels=labels), pod("finance/web", 8080)])
    by_pod = judged(TUNNEL, now=now)
    assert proposed(by_pod)[0]["spec"]["selector"] == {
        "matchLabels": {"app": "payments", "tier": "back"}
    }
    selectors = {"finance/payments": {"app": "payments"}}
    by_selector = judged(TUNNEL, now=now, selectors=selectors)
    assert proposed(by_selector)[0]["spec"]["selector"] == {"matchLabels": {"app": "payments"}}


def test_a_selector_that_would_hit_another_workload_is_not_used() -> None:
    other = pod("finance/web", 8080, labels={"app": "payments", "tier": "front"})
    mine = pod("finance/payments", 8080, labels={"app": "payments", "tier": "back"})
    selectors = {"finance/payments": {"app": "payments"}}
    report = judged(TUNNEL, now=world(pods=[mine, other]), selectors=selectors)
    assert proposed(report)[0]["spec"]["selector"] == {
        "matchLabels": {"app": "payments", "tier": "back"}
    }


@pytest.mark.parametrize("labels", [{}, {"app": "payments"}], ids=["none", "another's"])
def test_a_workload_without_labels_of_its_own_gets_no_policy(labels: dict[str, str]) -> None:
    mine = pod("finance/payments", 8080, labels=labels)
    other = pod("finance/web", 8080, labels={"app": "payments"})
    report = judged(TUNNEL, now=world(pods=[mine, other]))
    assert proposed(report) == []
    assert report.left_out[0].why == "has no labels that are its own alone"


def test_no_policy_is_written_into_the_root_namespace() -> None:
    now = world(pods=[pod("istio-system/gate", 8080), pod("finance/web")])
    report = judged("finance/web > istio-system/gate:8080 accepted", now=now)
    assert report.ready
    assert [each["metadata"]["namespace"] for each in proposed(report)] == ["finance"]
    assert [each.why for each in report.left_out] == [
        "is in istio-system, whose policies hold for the whole mesh"
    ]


@pytest.mark.parametrize(
    "lines", [[TUNNEL], [TUNNEL, METRICS], [TUNNEL, METRICS, WEB], [WEB, CRON, METRICS]]
)
def test_what_is_proposed_refuses_nobody_who_came_in_plaintext(lines: list[str]) -> None:
    now = world()
    report = judged(*lines, now=now)
    parsed = [parse_peer_authentication(each) for each in proposed(report)]
    assert parsed
    assert all(not problems for _, problems in parsed)
    policies = [each for each, _ in parsed if each is not None]
    index = PolicyIndex(policies, root_namespace=now.root_namespace)
    for each in report.workloads:
        decision = index.decide(each.namespace, {"app": each.name}, each.ports)
        for number, port in each.ports.items():
            if not port.state.is_ready:
                assert decision.mode_of(number) is not Mode.STRICT


SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: payments, namespace: finance}
spec: {type: NodePort, selector: {app: payments}, ports: [{port: 80, targetPort: 8080}]}
"""
WEBHOOK = """\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: check}
webhooks:
- {name: a, clientConfig: {service: {namespace: finance, name: payments, port: 80}}}
"""
INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop, namespace: finance}
spec: {defaultBackend: {service: {name: payments, port: {number: 80}}}}
"""
CLUSTER_IP = SERVICE.replace("NodePort", "ClusterIP")
STRANGER = "192.0.2.7 > finance/payments:8080 plaintext"
INSIDE = [pod("finance/web", 8080), pod("finance/payments", 8080)]


def doors(*texts: str) -> Known:
    files = {f"f{number}": text for number, text in enumerate(texts)}
    return Known(FrontDoors(objects(**files)))


@pytest.mark.parametrize(
    ("lines", "texts", "expected"),
    [
        pytest.param([TUNNEL], [SERVICE], "front door", id="by a node"),
        pytest.param([TUNNEL], [CLUSTER_IP, WEBHOOK], "front door", id="by the API server"),
        pytest.param([], [CLUSTER_IP, INGRESS], "front door", id="by a gateway not seen yet"),
        pytest.param([TUNNEL], [CLUSTER_IP, INGRESS], "ready", id="by a gateway in the mesh"),
        pytest.param([TUNNEL, CRON], [SERVICE], "plaintext", id="and a pod was seen"),
        pytest.param([TUNNEL, STRANGER], [SERVICE], "front door", id="and a stranger was seen"),
        pytest.param([TUNNEL], [CLUSTER_IP], "ready", id="none"),
    ],
)
def test_a_port_with_a_front_door_is_not_ready_by_what_was_seen(
    lines: list[str], texts: list[str], expected: str
) -> None:
    assert states(judged(*lines, known=doors(*texts)))[8080] == expected


def test_a_policy_leaves_a_front_door_as_it_is() -> None:
    report = judged(TUNNEL, METRICS, known=doors(SERVICE))

    (proposal,) = report.policies
    assert proposal.manifest["spec"]["portLevelMtls"] == {8080: {"mode": "PERMISSIVE"}}
    assert proposal.exceptions == {
        8080: "port 8080 is for clients outside the cluster by Service finance/payments (NodePort)"
    }


@pytest.mark.parametrize("lines", [[], [TUNNEL], [STRANGER]], ids=["unused", "inside", "outside"])
def test_a_workload_that_is_all_front_door_becomes_strict_elsewhere(lines: list[str]) -> None:
    report = judged(*lines, now=world(pods=INSIDE), known=doors(SERVICE))

    (proposal,) = report.policies
    assert proposal.manifest["spec"] == {
        **PAYMENTS_STRICT,
        "portLevelMtls": {8080: {"mode": "PERMISSIVE"}},
    }
    assert [each.workload for each in report.left_out] == ["finance/web"]


@pytest.mark.parametrize(
    ("lines", "ready"),
    [
        pytest.param([WEB], True, id="nobody was seen"),
        pytest.param([WEB, STRANGER], True, id="a stranger"),
        pytest.param([WEB, CRON], False, id="a pod, which needs no front door"),
    ],
)
def test_a_front_door_that_a_policy_leaves_open_is_ready(
    lines: list[str],
    ready: bool,  # noqa: FBT001 - a column
) -> None:
    left_open = PeerAuthentication(
        namespace="finance",
        name="payments",
        selector={"app": "payments"},
        mode=Mode.STRICT,
        port_modes={8080: Mode.PERMISSIVE},
    )
    now = world(left_open, pods=[*INSIDE, pod("legacy/cron")])

    report = judged(*lines, now=now, known=doors(SERVICE))

    assert (states(report)[8080] == "left open") is ready
    assert report.ready is ready


@pytest.mark.parametrize(
    ("pods", "lines", "texts", "verdict"),
    [
        pytest.param([], [CRON], [], "seen", id="plaintext"),
        pytest.param([pod("legacy/cron")], [TUNNEL, WEB], [], "possible", id="a pod outside"),
        pytest.param([], [TUNNEL, WEB], [SERVICE], "possible", id="a front door"),
        pytest.param([], [TUNNEL, WEB], [], "none", id="nobody outside"),
        pytest.param([], [], [], "none", id="nobody outside, and no traffic"),
    ],
)
def test_an_audit_and_a_plan_have_one_verdict(
    pods: list[Any], lines: list[str], texts: list[str], verdict: str
) -> None:
    now = world(pods=[*INSIDE, *pods])
    report = judged(*lines, now=now, known=doors(*texts))
    given = ["+finance", "Pod finance/web 8080", "Pod finance/payments 8080"]
    given += [f"Pod {each.workload}" for each in pods]
    files = {f"f{number}": text for number, text in enumerate(texts)}
    planned = plan(
        objects(*given, **files),
        objects(*given, "finance/default STRICT", **files),
        root_namespace="istio-system",
        observed=seen_in_plaintext(connection(line, now) for line in lines),
    )

    assert (report.verdict, planned.verdict) == (verdict, verdict)


def test_what_could_not_be_read_may_have_clients() -> None:
    problem = Problem(subject="ingresses", path="", found="may not be read", wanted="a right")
    now = world(pods=INSIDE)

    report = judged(TUNNEL, WEB, now=now, known=Known(problems=(problem,)))

    assert (report.verdict, report.problems) == (Breakage.UNKNOWN, (problem,))
    assert {each.verdict for each in report.policies} == {Breakage.UNKNOWN}


def test_workloads_outside_the_mesh_that_manifests_have_may_call() -> None:
    manifests = objects("+finance", "Deployment finance/web 80", "Deployment legacy/report")

    report = judged(TUNNEL, WEB, now=world(pods=INSIDE), known=Known.of(manifests))

    assert (report.outside, report.verdict) == (("legacy/report",), Breakage.POSSIBLE)


def test_a_proposal_says_whom_it_could_refuse() -> None:
    possible = judged(TUNNEL, METRICS)
    none = judged(TUNNEL, METRICS, WEB, now=world(pods=INSIDE))

    assert [each.verdict for each in possible.policies] == [Breakage.POSSIBLE]
    assert possible.outside == ("finance/outsider", "legacy/cron")
    assert [each.verdict for each in none.policies] == [Breakage.NONE]


def test_a_proposal_for_ports_that_are_not_known_says_whom_it_could_refuse() -> None:
    names = "finance/web", "finance/payments", "legacy/cron"
    report = judged(now=world(pods=[pod(name) for name in names]))

    assert [dict(each.ports) for each in report.workloads] == [{}, {}]
    assert [each.verdict for each in report.policies] == [Breakage.POSSIBLE]
