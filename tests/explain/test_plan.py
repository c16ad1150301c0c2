from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.explain.notation import ROOT, objects

from troth.explain.front_doors import Breakage
from troth.explain.noted import Plaintext
from troth.explain.plan import plan

if TYPE_CHECKING:
    from troth.explain.plan import Affected, Plan

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
WORLD = ["+finance", "-legacy", "Deployment finance/web 8080", "Pod legacy/cron"]


def planned(before: list[str], after: list[str], *observed: Plaintext) -> Plan:
    return plan(objects(*before), objects(*after), root_namespace=ROOT, observed=observed)


def changes(report: Plan) -> list[str]:
    return [
        f"{each.workload}:{each.port or '*'} {each.before} -> {each.after}"
        for each in report.changes
    ]


def pairs(groups: tuple[Affected, ...]) -> set[tuple[str, str]]:
    """Every client with every port, none of them told twice."""
    told = [
        (str(client), f"{port.workload}:{port.port or '*'}")
        for group in groups
        for client in group.clients
        for port in group.ports
    ]
    assert len(set(told)) == len(told)
    return set(told)


def seen(source: str, *, destination: str = "finance/web", port: int = 8080) -> Plaintext:
    return Plaintext(source=source, destination=destination, port=port, count=3, last=NOON)


def test_a_port_that_becomes_strict_breaks_clients_outside_the_mesh() -> None:
    report = planned(WORLD, [*WORLD, "finance/default STRICT"])

    assert changes(report) == [
        "Deployment finance/web:8080 PERMISSIVE -> STRICT",
        "Deployment finance/web:* PERMISSIVE -> STRICT",
    ]
    assert pairs(report.breaks) == {("Pod legacy/cron", "Deployment finance/web:8080")}
    assert report.would_break
    assert not report.unencrypted


def test_nobody_breaks_when_all_clients_are_in_the_mesh() -> None:
    world = ["+finance", "Deployment finance/web 8080", "Deployment finance/payments 8080"]

    report = planned(world, [*world, "istio-system/default STRICT"])

    assert len(report.changes) == 4
    assert not report.would_break


def test_a_port_that_stays_open_breaks_nobody() -> None:
    after = [*WORLD, "finance/default STRICT", "finance/web {app=web} UNSET 8080=PERMISSIVE"]

    report = planned(WORLD, after)

    assert changes(report) == ["Deployment finance/web:* PERMISSIVE -> STRICT"]
    assert not report.would_break


def test_a_port_that_becomes_disable_is_no_longer_encrypted_between_captured_pods() -> None:
    world = [*WORLD, "Deployment finance/payments 9090"]

    report = planned(world, [*world, "finance/p {app=payments} UNSET 9090=DISABLE"])

    assert pairs(report.unencrypted) == {
        ("Deployment finance/payments", "Deployment finance/payments:9090"),
        ("Deployment finance/web", "Deployment finance/payments:9090"),
    }
    assert not report.would_break


def test_a_client_that_leaves_the_mesh_loses_strict_ports_and_the_encryption_of_others() -> None:
    policies = ["finance/db {app=db} STRICT"]
    workloads = ["Deployment finance/web 8080", "Deployment finance/db 5432", "Pod batch/job"]

    report = planned(
        ["+finance", "+batch", *workloads, *policies], ["+finance", "-batch", *workloads, *policies]
    )

    assert changes(report) == ["Pod batch/job:* PERMISSIVE -> None"]
    assert pairs(report.breaks) == {("Pod batch/job", "Deployment finance/db:5432")}
    assert ("Pod batch/job", "Deployment finance/web:8080") in pairs(report.unencrypted)


def test_a_server_that_joins_the_mesh_under_strict_breaks_clients_outside() -> None:
    rest = ["Deployment finance/web 8080", "Pod legacy/cron", "finance/default STRICT"]

    report = planned(["-finance", *rest], ["+finance", *rest])

    assert changes(report)[0] == "Deployment finance/web:8080 None -> STRICT"
    assert pairs(report.breaks) == {("Pod legacy/cron", "Deployment finance/web:8080")}


@pytest.mark.parametrize(
    ("sign", "before", "after", "weaker"),
    [
        pytest.param("+", "STRICT", "PERMISSIVE", True, id="STRICT to PERMISSIVE"),
        pytest.param("+", "STRICT", "DISABLE", True, id="STRICT to DISABLE"),
        pytest.param("+", "PERMISSIVE", "DISABLE", True, id="PERMISSIVE to DISABLE"),
        pytest.param("-", "PERMISSIVE", "PERMISSIVE", True, id="out of the mesh"),
        pytest.param("+", "DISABLE", "PERMISSIVE", False, id="DISABLE to PERMISSIVE"),
        pytest.param("+", "PERMISSIVE", "STRICT", False, id="PERMISSIVE to STRICT"),
        pytest.param("-", "DISABLE", "DISABLE", False, id="DISABLE out of the mesh"),
    ],
)
def test_a_port_that_takes_what_it_refused_before_is_weaker(
    sign: str,
    before: str,
    after: str,
    weaker: bool,  # noqa: FBT001 - a column
) -> None:
    web = "Deployment finance/web 8080"

    report = planned(
        ["+finance", web, f"finance/default {before}"],
        [f"{sign}finance", web, f"finance/default {after}"],
    )

    assert [each.port for each in report.weaker] == ([8080, None] if weaker else [])


def test_a_new_workload_has_no_clients_to_lose() -> None:
    before = ["+finance", "Pod legacy/cron", "finance/default STRICT"]

    report = planned(before, [*before, "Deployment finance/web 8080"])

    assert not report.changes
    assert not report.would_break


def test_a_workload_without_declared_ports_is_judged_as_a_whole() -> None:
    world = ["+finance", "Deployment finance/web", "Pod legacy/cron"]

    report = planned(world, [*world, "finance/default STRICT"])

    assert pairs(report.breaks) == {("Pod legacy/cron", "Deployment finance/web:*")}


def test_clients_seen_in_plaintext_stand_beside_the_port() -> None:
    report = planned(WORLD, [*WORLD, "finance/default STRICT"], seen("legacy/cron"))

    assert [port.seen for port in report.breaks[0].ports] == [(seen("legacy/cron"),)]


def test_a_client_known_only_from_what_was_seen_breaks_too() -> None:
    world = ["+finance", "Deployment finance/web 8080 9090"]

    report = planned(world, [*world, "finance/default STRICT"], seen("192.0.2.7"))

    assert report.would_break
    assert report.breaks[0].clients == ()
    assert [port.port for port in report.breaks[0].ports] == [8080]


def test_plaintext_to_a_port_that_nobody_declares_is_seen_all_the_same() -> None:
    report = planned(WORLD, [*WORLD, "finance/default STRICT"], seen("192.0.2.7", port=7000))

    assert [port.port for port in report.breaks[0].ports] == [7000, 8080]


def test_a_client_that_will_be_in_the_mesh_does_not_break() -> None:
    before = ["+finance", "-legacy", "Deployment finance/web 8080", "Pod legacy/cron"]
    after = ["+finance", "+legacy", *before[2:], "finance/default STRICT"]

    report = planned(before, after, seen("legacy/cron"))

    assert not report.would_break


ROLLOUT = """\
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: shop, namespace: finance}
spec:
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}
"""
KAFKA = """\
apiVersion: kafka.strimzi.io/v1beta2
kind: Kafka
metadata: {name: log, namespace: finance}
spec: {kafka: {replicas: 3}}
"""


def planned_beside(text: str, before: list[str], after: list[str]) -> Plan:
    """What a change does in a world that also has what ``text`` says."""
    return plan(objects(*before, more=text), objects(*after, more=text), root_namespace=ROOT)


def test_clients_of_a_custom_workload_break_as_those_of_any() -> None:
    world = ["+finance", "Pod legacy/cron"]

    report = planned_beside(ROLLOUT, world, [*world, "finance/default STRICT"])

    assert pairs(report.breaks) == {("Pod legacy/cron", "Rollout.argoproj.io finance/shop:80")}


def test_a_custom_workload_outside_the_mesh_is_a_client() -> None:
    text = ROLLOUT.replace("finance", "legacy")

    report = planned_beside(text, WORLD[:3], [*WORLD[:3], "finance/default STRICT"])

    assert pairs(report.breaks) == {
        ("Rollout.argoproj.io legacy/shop", "Deployment finance/web:8080")
    }


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(["finance/default STRICT"], id="its namespace's mode"),
        pytest.param(["finance/log {app=log} STRICT"], id="a policy that may select it"),
        pytest.param(["-finance"], id="its namespace leaves the mesh"),
        pytest.param(["shop/default STRICT", "+shop", "Pod shop/till 80"], id="whom it may call"),
    ],
)
def test_whether_a_workload_without_a_template_breaks_is_unknown(change: list[str]) -> None:
    before = ["+finance", "+shop", "Pod shop/till 80"]
    after = list({line.strip("+-"): line for line in (*before, *change)}.values())

    report = planned_beside(KAFKA, before, after)

    assert (report.verdict, report.would_break) == (Breakage.UNKNOWN, False)
    assert [(str(each.workload), each.why) for each in report.unknown] == [
        (
            "Kafka.kafka.strimzi.io finance/log",
            "its operator makes the pods, from no template in it",
        )
    ]


@pytest.mark.parametrize("change", ["shop/default DISABLE", "other/default STRICT"])
def test_a_workload_without_a_template_is_passed_by_where_nothing_concerns_it(change: str) -> None:
    before = ["+finance", "+shop", "Pod shop/till 80"]

    report = planned_beside(KAFKA, before, [*before, change])

    assert (report.verdict, report.unknown) == (Breakage.NONE, ())


WRAPPER = """\
apiVersion: kubernetes.crossplane.io/v1alpha2
kind: Object
metadata: {name: wrapper, namespace: far}
spec:
  forProvider:
    manifest:
      apiVersion: security.istio.io/v1
      kind: PeerAuthentication
      metadata: {name: default, namespace: finance}
      spec: {mtls: {mode: STRICT}}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {"more": WRAPPER}, id="comes"),
        pytest.param({"more": WRAPPER}, {}, id="goes"),
        pytest.param(
            {"more": WRAPPER}, {"more": WRAPPER.replace("STRICT", "DISABLE")}, id="changes"
        ),
    ],
)
def test_whether_a_policy_inside_another_object_breaks_is_unknown(
    before: dict[str, str], after: dict[str, str]
) -> None:
    world = ["+finance", "Pod finance/web 80"]

    report = plan(objects(*world, **before), objects(*world, **after), root_namespace=ROOT)

    assert report.verdict is Breakage.UNKNOWN
    assert [(str(each.workload), each.why) for each in report.unknown] == [
        (
            "Object.kubernetes.crossplane.io far/wrapper",
            "it holds other objects, such as PeerAuthentication finance/default",
        )
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            """\
apiVersion: kubernetes.crossplane.io/v1alpha2
kind: Object
metadata: {name: wrapper, namespace: far}
spec:
  forProvider:
    manifest: {apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: finance}}
""",
            id="in another object",
        ),
        pytest.param(
            """\
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: web, namespace: argocd}
spec: {destination: {namespace: finance}}
""",
            id="of a deployer",
        ),
    ],
)
def test_a_change_may_concern_pods_that_others_make_in_any_namespace(text: str) -> None:
    report = planned_beside(text, ["+finance"], ["+finance", "finance/default STRICT"])

    assert report.verdict is Breakage.UNKNOWN


def test_a_policy_inside_another_object_that_stays_is_no_change() -> None:
    report = planned_beside(WRAPPER, ["+finance"], ["+finance", "other/default DISABLE"])

    assert report.unknown == ()


def test_errors_of_the_planned_manifests_are_part_of_the_plan() -> None:
    bad = objects(*WORLD, bad="kind: Pod")

    report = plan(objects(*WORLD), bad, root_namespace=ROOT)

    assert [str(each.location) for each in report.problems] == ["bad.yaml:1"]


def test_the_json_form_is_stable() -> None:
    report = planned(WORLD, [*WORLD, "finance/default STRICT"], seen("legacy/cron"))

    web = {"namespace": "finance", "name": "web", "kind": "Deployment"}
    by = {"scope": "namespace", "policy": "finance/default"}
    change = {"workload": web, "from": "PERMISSIVE", "to": "STRICT", "decided_by": by}
    observed = {
        "source": "legacy/cron",
        "destination": "finance/web",
        "port": 8080,
        "count": 3,
        "last": "2026-01-31T12:00:00Z",
    }
    assert msgspec.json.decode(msgspec.json.encode(report)) == {
        "schema": "troth/plan/v1",
        "verdict": "seen",
        "would_break": True,
        "changes": [{**change, "port": 8080}, {**change, "port": None}],
        "breaks": [
            {
                "clients": [{"namespace": "legacy", "name": "cron", "kind": "Pod"}],
                "ports": [{**change, "port": 8080, "seen": [observed], "front_doors": []}],
            }
        ],
        "unencrypted": [],
        "weaker": [],
        "unknown": [],
        "exceptions": [],
        "problems": [],
        "warnings": [],
    }


# Three workloads, each in its own namespace that is in the mesh or not and has a policy or none.
_SIDES = st.lists(
    st.tuples(st.sampled_from("+-"), st.sampled_from(["", "STRICT", "PERMISSIVE", "DISABLE"])),
    min_size=3,
    max_size=3,
)
_NAMES = ("a", "b", "c")


def _lines(side: list[tuple[str, str]]) -> list[str]:
    lines = []
    for name, (sign, mode) in zip(_NAMES, side, strict=True):
        lines += [f"{sign}{name}", f"Pod {name}/{name} 80"]
        if mode:
            lines.append(f"{name}/default {mode}")
    return lines


def _fate(client_in_mesh: bool, server_in_mesh: bool, mode: str) -> str:  # noqa: FBT001 - a table's columns
    """What becomes of one connection, looked at by itself."""
    if not server_in_mesh or mode == "DISABLE":
        return "plaintext"
    if client_in_mesh:
        return "encrypted"
    return "refused" if mode == "STRICT" else "plaintext"


@given(before=_SIDES, after=_SIDES)
def test_a_plan_is_what_looking_at_every_pair_by_itself_would_find(
    before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    broken, bared = set(), set()
    for client, server in itertools.product(range(3), repeat=2):
        was, will = (
            _fate(side[client][0] == "+", side[server][0] == "+", side[server][1])
            for side in (before, after)
        )
        names = (
            f"Pod {_NAMES[client]}/{_NAMES[client]}",
            f"Pod {_NAMES[server]}/{_NAMES[server]}:80",
        )
        if was != "refused" and will == "refused":
            broken.add(names)
        if was == "encrypted" and will == "plaintext":
            bared.add(names)

    report = planned(_lines(before), _lines(after))

    assert pairs(report.breaks) == broken
    assert pairs(report.unencrypted) == bared
    assert report.would_break == bool(broken)


@given(side=_SIDES)
def test_no_change_does_nothing(side: list[tuple[str, str]]) -> None:
    report = planned(_lines(side), _lines(side))

    assert (report.changes, report.breaks, report.unencrypted) == ((), (), ())


@pytest.mark.parametrize("mode", ["STRICT", "DISABLE"])
def test_a_policy_in_one_namespace_changes_nothing_in_another(mode: str) -> None:
    report = planned(WORLD, [*WORLD, f"legacy/default {mode}", f"other/default {mode}"])

    assert not report.changes
