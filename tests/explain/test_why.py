from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml
from tests.explain.seen import NOON, at, connection, observed, pod, policy, totals, world

from troth.errors import PeerError
from troth.explain.remedies import TEXTS, note
from troth.explain.why import Conflict, why
from troth.mesh.model import Endpoint, Pod, Service, ServicePort
from troth.policy.model import Mode
from troth.traffic.connection import Connection, Party, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.explain.why import Refusal, Why
    from troth.mesh.world import World
    from troth.policy.model import PeerAuthentication

MTLS = policy("finance/payments-mtls", Mode.STRICT, app="payments")
REFUSED = "legacy/cron > finance/payments:8080 refused plaintext_to_strict"
PAYMENTS = Service(
    namespace="finance",
    name="payments",
    cluster_ips=("10.96.0.1",),
    ports=(ServicePort(number=80, endpoints=(Endpoint("10.0.1.2", 8080),)),),
)


def told(
    *connections: Connection,
    now: World,
    about: str | None = None,
    most: int = 10,
    conflicts: Iterable[Conflict] = (),
    **more: Any,
) -> Why:
    return why(observed(connections, now, **more), about=about, most=most, conflicts=conflicts)


def one(each: Connection, now: World) -> Refusal:
    (refusal,) = told(each, now=now).refusals
    return refusal


def sentences(line: str, now: World, **options: object) -> str:
    refusal = one(connection(line, now, **options), now)  # type: ignore[arg-type]  # as given
    return f"{refusal.cause} {refusal.remedy}"


@pytest.mark.parametrize(
    ("now", "line", "expected"),
    [
        pytest.param(
            world(MTLS),
            REFUSED,
            "Plaintext, and finance/payments-mtls sets STRICT for app=payments. "
            "Put namespace legacy in the mesh, "
            "or set PERMISSIVE for port 8080 in finance/payments-mtls.",
            id="a workload policy, a client in a namespace outside",
        ),
        pytest.param(
            world(policy("finance/p", Mode.STRICT, port=8080, app="payments")),
            REFUSED,
            "Plaintext, and finance/p sets STRICT for port 8080 of app=payments. "
            "Put namespace legacy in the mesh, or set PERMISSIVE for port 8080 in finance/p.",
            id="a port-level entry",
        ),
        pytest.param(
            world(policy("finance/default", Mode.STRICT)),
            REFUSED,
            "Plaintext, and finance/default sets STRICT for namespace finance. "
            "Put namespace legacy in the mesh, or select finance/payments by a "
            "PeerAuthentication of its own that sets PERMISSIVE for port 8080.",
            id="a namespace policy",
        ),
        pytest.param(
            world(policy("istio-system/default", Mode.STRICT)),
            "finance/outsider > finance/payments:8080 refused plaintext_to_strict",
            "Plaintext, and istio-system/default sets STRICT for the whole mesh. "
            "Remove the label troth.dev/mesh: disabled from finance/outsider, or select "
            "finance/payments by a PeerAuthentication of its own that sets PERMISSIVE for "
            "port 8080.",
            id="a mesh policy, a client that opted out",
        ),
        pytest.param(
            world(MTLS),
            "192.0.2.7 > finance/payments:8080 refused plaintext_to_strict",
            "Plaintext, and finance/payments-mtls sets STRICT for app=payments. "
            "Nothing known has the address 192.0.2.7, so let a pod of the mesh connect, "
            "or set PERMISSIVE for port 8080 in finance/payments-mtls.",
            id="a client that nobody knows",
        ),
        pytest.param(
            world(MTLS),
            "finance/web > finance/payments:8080 refused plaintext_to_strict",
            "Plaintext, and finance/payments-mtls sets STRICT for app=payments. "
            "finance/web is captured now, so let it connect again, "
            "or set PERMISSIVE for port 8080 in finance/payments-mtls.",
            id="a client that has been captured since",
        ),
    ],
)
def test_plaintext_to_a_strict_port_is_explained_by_who_set_it(
    now: World, line: str, expected: str
) -> None:
    assert sentences(line, now) == expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(
            world(),
            "Plaintext, and finance/payments-mtls set STRICT at that time. "
            "Nothing to do: port 8080 of finance/payments is PERMISSIVE now.",
            id="the policy is gone",
        ),
        pytest.param(
            world(policy("finance/default", Mode.STRICT)),
            "Plaintext, and finance/payments-mtls set STRICT at that time. "
            "Put namespace legacy in the mesh, or select finance/payments by a "
            "PeerAuthentication of its own that sets PERMISSIVE for port 8080.",
            id="another policy is STRICT instead",
        ),
        pytest.param(
            world(MTLS, pods=[pod("legacy/cron", captured=False)]),
            "Plaintext, and finance/payments-mtls set STRICT at that time. "
            "Nothing to do: finance/payments is gone.",
            id="the server is gone",
        ),
    ],
)
def test_the_cause_is_that_of_its_time_and_the_remedy_for_now(now: World, expected: str) -> None:
    refusal = one(connection(REFUSED, world(MTLS)), now)
    assert f"{refusal.cause} {refusal.remedy}" == expected
    assert refusal.mode is Mode.STRICT
    assert str(refusal.decided_by) == "finance/payments-mtls (workload)"


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.NONE}))
@pytest.mark.parametrize("side", sorted(Side))
@pytest.mark.parametrize("source", ["legacy/cron", "finance/web", "192.0.2.7"])
@pytest.mark.parametrize(
    "destination", ["finance/payments", "gone/away", "10.96.0.1", "2001:db8::9"]
)
def test_every_reason_has_a_cause_and_a_remedy_whoever_is_known(
    reason: Reason, side: Side, source: str, destination: str
) -> None:
    now = world(MTLS, services=[PAYMENTS])
    hostile = "{0} {trust_domain.__class__} %s"
    line = f"{source} > {destination}:80 refused {reason}"
    refusal = one(connection(line, now, side=side, detail=hostile), now)
    for sentence in (refusal.cause, refusal.remedy):
        assert sentence.endswith(".")
        assert "{" not in sentence.replace(hostile, "")
        assert "None" not in sentence


@pytest.mark.parametrize(
    ("side", "reporter"), [(Side.SERVER, "finance/payments"), (Side.CLIENT, "finance/web")]
)
def test_the_pod_that_had_too_many_connections_is_named(side: Side, reporter: str) -> None:
    line = "finance/web > finance/payments:0 failed too_many_connections"
    text = sentences(line, world(), side=side, detail="that leave it")
    assert text.startswith(f"{reporter} had as many connections that leave it as one pod may have")


def test_the_table_has_a_row_for_every_reason() -> None:
    assert TEXTS.keys() == set(Reason)


@pytest.mark.parametrize(
    ("line", "options", "expected"),
    [
        pytest.param(
            "legacy/cron > finance/payments:8080 refused no_client_certificate",
            {},
            "It came to the tunnel of finance/payments and showed no certificate. "
            "Put namespace legacy in the mesh, and let the app connect to its port in plaintext: "
            "troth makes the tunnel.",
            id="no certificate",
        ),
        pytest.param(
            "finance/web > finance/payments:15006 refused bad_server_name",
            {"detail": "15006"},
            "It dialled port 15006 itself, and 15001, 15006, 15007, 15101, 15106 and 15107 are "
            "troth's own ports in every pod. Connect to the app's port.",
            id="a captured client that dials a port of troth's",
        ),
        pytest.param(
            "finance/web > finance/payments:0 refused bad_server_name",
            {"detail": "x8080"},
            "It came to the tunnel of finance/payments without naming a port of the pod: x8080. "
            "Only troth uses the tunnel: let the app of finance/web connect to the other app's "
            "port in plaintext, as its proxy makes the tunnel.",
            id="a captured client that makes a tunnel of its own",
        ),
        pytest.param(
            "legacy/cron > finance/payments:8080 refused certificate_expired",
            {"claimed_peer": "spiffe://cluster.local/ns/finance/sa/web"},
            "legacy/cron showed a certificate (spiffe://cluster.local/ns/finance/sa/web) that had "
            "expired. Certificates of the mesh are renewed long before: see in `troth status` "
            "why this one was not, and compare both clocks.",
            id="expired",
        ),
        pytest.param(
            "finance/web > 10.96.0.1:80 refused wrong_server_identity",
            {"side": Side.CLIENT, "claimed_peer": "spiffe://cluster.local/ns/finance/sa/mallory"},
            "10.96.0.1:80 answered with a certificate for "
            "spiffe://cluster.local/ns/finance/sa/mallory, which is not that of finance/payments. "
            "Find out who answers there and by which service account it runs; if its pod was "
            "being replaced at that moment, connect again.",
            id="an impostor behind a service",
        ),
        pytest.param(
            "finance/web > finance/payments:8080 failed app_unreachable",
            {},
            "It reached the pod, but nothing took the connection at port 8080 of finance/payments "
            "at its IPv4 address 10.0.1.2. "
            "Connect again: if it fails again, look whether the app listens there at all.",
            id="the app doesn't listen",
        ),
        pytest.param(
            "finance/web > finance/payments:8080 failed app_unreachable",
            {"detail": "it listens on 0.0.0.0:8080 alone, so not on IPv6"},
            "It reached the pod, but nothing took the connection at port 8080 of finance/payments "
            "at its IPv4 address 10.0.1.2: it listens on 0.0.0.0:8080 alone, so not on IPv6. "
            "Let the app listen on :: (both families), or give the Service ipFamilies: [IPv4], "
            "so that its name has no IPv6 address.",
            id="the app listens elsewhere",
        ),
        pytest.param(
            "finance/web > 10.96.0.1:80 failed no_endpoints",
            {"side": Side.CLIENT},
            "finance/payments has no ready pod behind port 80. "
            "See that a pod is ready that its selector matches, and that has the port that its "
            "targetPort names.",
            id="nobody behind the service",
        ),
    ],
)
def test_a_reason_is_told_with_the_names_of_the_case(
    line: str, options: dict[str, object], expected: str
) -> None:
    assert sentences(line, world(MTLS, services=[PAYMENTS]), **options) == expected


def test_those_that_failed_alike_are_one_with_a_count() -> None:
    now = world(MTLS)
    each = connection(REFUSED, now)
    (refusal,) = told(each, at(1, each), at(2, each), now=now).refusals
    assert (refusal.count, refusal.first, refusal.last) == (3, NOON, NOON + timedelta(seconds=2))
    assert (refusal.source_address, refusal.destination_address) == ("10.0.3.4", "10.0.1.2")


def test_what_was_accepted_is_not_told() -> None:
    now = world()
    passed = [
        connection("finance/web > finance/payments:8080 accepted", now),
        connection("legacy/cron > finance/payments:8080 plaintext", now),
    ]
    assert told(*passed, now=now).refusals == ()


def test_the_newest_come_first_and_no_more_than_asked_for() -> None:
    now = world(MTLS)
    each = [
        at(second, connection(f"10.0.7.{second} > finance/payments:8080 refused other", now))
        for second in (2, 3, 1)
    ]
    report = told(*each, now=now, most=2)
    assert [refusal.source for refusal in report.refusals] == ["10.0.7.3", "10.0.7.2"]


@pytest.mark.parametrize(
    ("about", "ports"),
    [
        pytest.param("legacy/cron", [1, 2], id="a client"),
        pytest.param("finance/web", [2, 3], id="client and server"),
        pytest.param("finance/web-0", [2, 3], id="a pod of it"),
        pytest.param("finance/outsider", [], id="no part in anything"),
    ],
)
def test_a_report_about_one_workload_leaves_the_others_out(about: str, ports: list[int]) -> None:
    now = world(MTLS)
    each = [
        connection("legacy/cron > finance/payments:1 refused other", now),
        connection("legacy/cron > finance/web:2 refused other", now),
        connection("finance/web > finance/payments:3 refused other", now),
    ]
    report = told(*each, now=now, about=about)
    assert sorted(refusal.port for refusal in report.refusals) == ports


BY_SERVER = "finance/web > finance/payments:8080 refused"
BY_CLIENT = "finance/web > 10.96.0.1:80 refused"


@pytest.mark.parametrize(
    ("server", "client", "told_reasons"),
    [
        pytest.param(
            "refused_by_peer",
            "wrong_server_identity",
            ["wrong_server_identity"],
            id="the client refused",
        ),
        pytest.param(
            "certificate_expired", "refused_by_peer", ["certificate_expired"], id="the server did"
        ),
        pytest.param("no_handshake", "unreachable", ["no_handshake"], id="neither knows more"),
        pytest.param(
            "app_unreachable",
            "wrong_server_identity",
            ["app_unreachable", "wrong_server_identity"],
            id="both know something of their own",
        ),
    ],
)
def test_what_both_ends_report_is_told_once(
    server: str, client: str, told_reasons: list[str]
) -> None:
    now = world(MTLS, services=[PAYMENTS])
    report = told(
        connection(f"{BY_SERVER} {server}", now),
        at(1, connection(f"{BY_CLIENT} {client}", now, side=Side.CLIENT)),
        now=now,
    )
    assert sorted(refusal.reason for refusal in report.refusals) == told_reasons


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("finance/web > 10.96.0.1:81 refused wrong_server_identity", id="port"),
        pytest.param("finance/web > 10.96.0.2:80 refused wrong_server_identity", id="service"),
        pytest.param("legacy/cron > 10.96.0.1:80 refused wrong_server_identity", id="client"),
    ],
)
def test_reports_of_different_connections_are_both_told(line: str) -> None:
    now = world(MTLS, services=[PAYMENTS])
    echo = connection(f"{BY_SERVER} refused_by_peer", now)
    other = connection(line, now, side=Side.CLIENT)
    assert len(told(echo, other, now=now).refusals) == 2


def test_reports_of_different_times_are_both_told() -> None:
    now = world(MTLS, services=[PAYMENTS])
    echo = connection(f"{BY_SERVER} refused_by_peer", now)
    other = connection(f"{BY_CLIENT} wrong_server_identity", now, side=Side.CLIENT)
    assert len(told(echo, at(60, other), now=now).refusals) == 2


def test_pods_that_are_not_captured_are_told_with_the_reason() -> None:
    now = world(MTLS)
    report = told(now=now, not_captured={"finance/web": "no certificate: the signer is gone"})
    assert [(each.pod, each.why) for each in report.not_captured] == [
        ("finance/web-0", "no certificate: the signer is gone")
    ]
    about = told(now=now, about="finance/payments", not_captured={"finance/web": "no certificate"})
    assert about.not_captured == ()


LOST = "finance/web > finance/payments:8080 failed unreachable"


@pytest.mark.parametrize(
    ("line", "where", "named"),
    [
        pytest.param(LOST, "NetworkPolicy finance/web-only", True, id="a policy, nobody reached"),
        pytest.param(LOST, "Namespace finance", True, id="another mesh, nobody reached"),
        pytest.param(LOST, "NetworkPolicy legacy/other", False, id="a policy of neither end"),
        pytest.param(REFUSED, "NetworkPolicy finance/web-only", False, id="refused, so reached"),
    ],
)
def test_what_is_in_the_way_of_the_tunnel_is_named_as_a_cause(
    line: str, where: str, *, named: bool
) -> None:
    now = world()
    conflict = Conflict(
        code="x", where=where, what="admits 8080, but not 15007", why="It fails.", remedy="Add it."
    )
    report = told(connection(line, now), now=now, conflicts=[conflict])
    (refusal,) = report.refusals
    assert report.conflicts == (conflict,)
    assert (f"{where} admits 8080, but not 15007." in refusal.cause) is named
    assert (refusal.remedy == "Add it.") is named


@pytest.mark.parametrize(
    ("behind", "remedy"),
    [
        ((), "Its selector matches no pod: correct it, or the labels of the pods."),
        (
            ("finance/payments-0: not ready",),
            (
                "It selects finance/payments-0: not ready. Correct that for one of them: "
                "`troth logs` shows what a container says."
            ),
        ),
    ],
)
def test_a_service_that_leads_nowhere_is_told_with_what_is_behind_it(
    behind: tuple[str, ...], remedy: str
) -> None:
    now = world(services=[PAYMENTS])
    seen = connection("finance/web > 10.96.0.1:80 failed no_endpoints", now, side=Side.CLIENT)
    (noted,) = note(totals([seen]), now, behind=lambda _: behind)
    assert noted.remedy == remedy


def test_who_is_cut_short_in_the_mesh_is_not_taken_for_a_port_scanner() -> None:
    line = "finance/web > finance/payments:8080 refused no_handshake"
    assert "port scanners" not in sentences(line, world(MTLS))
    assert "whether somebody floods the tunnel" in sentences(line, world(MTLS))


@pytest.mark.parametrize(
    ("held", "name", "labels"),
    [
        pytest.param(MTLS, "payments-mtls", {"app": "payments"}, id="the workload's own policy"),
        pytest.param(
            policy("finance/strict", Mode.STRICT),
            "payments-mtls",
            {"app": "payments"},
            id="a namespace's",
        ),
    ],
)
def test_a_refusal_of_plaintext_comes_with_the_manifests_that_admit_it(
    held: PeerAuthentication, name: str, labels: dict[str, str]
) -> None:
    now = world(held)
    (refusal,) = told(connection(REFUSED, now), now=now).refusals
    namespace, admitting = yaml.safe_load_all(refusal.manifests)
    assert namespace["metadata"] == {"name": "legacy", "labels": {"troth.dev/mesh": "enabled"}}
    assert admitting["metadata"] == {"name": name, "namespace": "finance"}
    assert admitting["spec"]["selector"] == {"matchLabels": labels}
    assert admitting["spec"]["portLevelMtls"][8080] == {"mode": "PERMISSIVE"}


def test_a_name_that_nobody_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(PeerError, match="no workload, pod or service is called 'finance/pay'"):
        told(now=world(), about="finance/pay")


def test_plaintext_from_a_nodes_address_is_told_as_the_nodes() -> None:
    agent = Pod(
        uid="agent",
        namespace="troth-system",
        name="troth-node-x",
        node="node-1",
        addresses=("172.30.0.11",),
        host_network=True,
    )
    known = world(MTLS)
    now = msgspec.structs.replace(known, pods={**known.pods, agent.uid: agent})
    event = msgspec.structs.replace(
        connection(REFUSED, now), source=Party(address="172.30.0.11", port=4711)
    )
    refusal = one(event, now)
    assert refusal.remedy.startswith(
        "172.30.0.11 is node node-1, whose own processes and host-network pods are outside the mesh"
    )
    assert "troth-system" not in refusal.manifests
