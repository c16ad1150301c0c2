from __future__ import annotations

import msgspec
import pytest
from tests.explain.notation import ROOT, objects

from troth.errors import InputError
from troth.explain.explain import Derivation, explain
from troth.identity.spiffe import TrustDomain
from troth.policy.model import Mode

HOST_NETWORK = """\
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: finance, labels: {app: agent}}
spec: {hostNetwork: true, containers: [{name: main, image: app}]}
"""


def explained(name: str, *lines: str, **files: str) -> Derivation:
    return explain(
        objects(*lines, **files),
        name,
        root_namespace=ROOT,
        trust_domain=TrustDomain.parse("cluster.local"),
    )


def test_the_json_form_is_the_one_documented() -> None:
    derivation = explained(
        "finance/payments",
        "+finance",
        "Deployment finance/payments 8080 9090 53/UDP",
        "istio-system/default STRICT",
        "finance/default",
        "finance/payments-mtls {app=payments} PERMISSIVE 8080=DISABLE 7070=STRICT",
        "finance/web {app=web} DISABLE",
    )

    workload = {"scope": "workload", "policy": "finance/payments-mtls"}
    assert msgspec.json.decode(msgspec.json.encode(derivation.explanation)) == {
        "schema": "troth/explain/v1",
        "workload": {
            "namespace": "finance",
            "name": "payments",
            "labels": {"app": "payments"},
            "service_account": "default",
            "spiffe_id": "spiffe://cluster.local/ns/finance/sa/default",
        },
        "in_mesh": True,
        "mode": "PERMISSIVE",
        "decided_by": workload,
        "ports": {
            "7070": {"mode": "STRICT", "decided_by": workload},
            "8080": {"mode": "DISABLE", "decided_by": workload},
            "9090": {"mode": "PERMISSIVE", "decided_by": workload},
        },
        "considered": [
            {
                "policy": "istio-system/default",
                "scope": "mesh",
                "verdict": "shadowed",
                "why": "finance/payments-mtls (workload) is narrower and sets PERMISSIVE",
            },
            {
                "policy": "finance/default",
                "scope": "namespace",
                "verdict": "shadowed",
                "why": "finance/payments-mtls (workload) is narrower and sets PERMISSIVE",
            },
            {
                "policy": "finance/payments-mtls",
                "scope": "workload",
                "verdict": "decides",
                "why": "it sets PERMISSIVE, and nothing narrower sets a mode; its portLevelMtls "
                "sets the mode of ports 7070 and 8080",
            },
            {
                "policy": "finance/web",
                "scope": "workload",
                "verdict": "no match",
                "why": "its selector needs app=web, and the workload has app=payments",
            },
        ],
        "problems": [],
    }


def test_a_workload_that_no_policy_reaches_has_the_default() -> None:
    explanation = explained("legacy/cron", "Pod legacy/cron", "finance/default STRICT").explanation

    assert explanation.mode is Mode.PERMISSIVE
    assert msgspec.to_builtins(explanation.decided_by) == {"scope": "default", "policy": None}


@pytest.mark.parametrize("kind", ["Pod", "Deployment", "StatefulSet", "Job"])
def test_a_workload_of_any_kind_is_found_by_name(kind: str) -> None:
    derivation = explained("finance/web", f"{kind} finance/web 8080", "finance/default STRICT")

    assert derivation.kind == kind
    assert derivation.explanation.ports[8080].mode is Mode.STRICT


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        pytest.param("finance/v=1", "Deployment", {"app": "web", "v": "1"}, id="some of one's"),
        pytest.param(
            "finance/app=web", "Pod", {"app": "web"}, id="all of one's, some of another's"
        ),
        pytest.param("finance/v=1,app=web", "Deployment", {"app": "web", "v": "1"}, id="any order"),
        pytest.param("finance/app=new", "", {"app": "new"}, id="nobody's yet"),
        pytest.param("other/app=web", "", {"app": "web"}, id="only another namespace's"),
        pytest.param("finance/a.b/c=", "", {"a.b/c": ""}, id="a key with a prefix, no value"),
    ],
)
def test_labels_name_a_workload(name: str, kind: str, labels: dict[str, str]) -> None:
    derivation = explained(name, "Pod finance/web", "Deployment finance/web1 {app=web,v=1}")

    assert derivation.kind == kind
    assert derivation.explanation.workload.labels == labels


def test_labels_that_nobody_has_are_judged_without_identity_and_ports() -> None:
    explanation = explained("finance/app=new", "finance/p {app=new} STRICT 1=DISABLE").explanation

    assert (explanation.workload.name, explanation.workload.spiffe_id) == ("app=new", None)
    assert (explanation.mode, list(explanation.ports)) == (Mode.STRICT, [1])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param(
            "payments",
            "names no workload; write NAMESPACE/NAME or NAMESPACE/KEY=VALUE,KEY=VALUE",
            id="no namespace",
        ),
        pytest.param(
            "finance/",
            "names no workload; write NAMESPACE/NAME or NAMESPACE/KEY=VALUE,KEY=VALUE",
            id="no name",
        ),
        pytest.param(
            "finance/paymnts",
            "is not among the workloads given; did you mean finance/payments?",
            id="misspelt",
        ),
        pytest.param(
            "finance/zebra",
            "is not among the workloads given; in namespace finance there are payments, web",
            id="nothing like it",
        ),
        pytest.param(
            "other/web",
            "is not among the workloads given; give manifests that have workloads in namespace "
            "other, or name labels",
            id="an empty namespace",
        ),
        pytest.param(
            "finance/web",
            "may be any of Pod finance/web, Deployment finance/web; name one of them by labels "
            "that only it has",
            id="two of one name",
        ),
        pytest.param(
            "finance/app=a,app=b", "gives the label app twice; keep one of them", id="twice"
        ),
        pytest.param(
            "finance/app=web,tier",
            "has 'tier', which is no label; write KEY=VALUE,KEY=VALUE",
            id="a label without value",
        ),
        pytest.param(
            "finance/=web", "has an empty key; write a label's key there", id="a label without key"
        ),
    ],
)
def test_a_name_that_means_no_one_workload_is_refused(name: str, problem: str) -> None:
    lines = ["Deployment finance/payments", "Pod finance/web {v=1}", "Deployment finance/web {v=2}"]

    with pytest.raises(InputError) as refused:
        explained(name, *lines)

    assert str(refused.value) == f"workload {name}: {problem}"


@pytest.mark.parametrize(
    ("lines", "in_mesh", "why"),
    [
        (["+finance", "Pod finance/agent"], True, "namespace finance is labelled"),
        (["-finance", "Pod finance/agent"], False, "namespace finance is not labelled"),
        (["Pod finance/agent"], False, "no Namespace given labels finance with"),
        (
            ["+finance", "Pod finance/agent {troth.dev/mesh=disabled}"],
            False,
            "the pod is labelled troth.dev/mesh: disabled",
        ),
    ],
    ids=["labelled", "not labelled", "not described", "opted out"],
)
def test_membership_has_a_reason(lines: list[str], in_mesh: bool, why: str) -> None:  # noqa: FBT001 - a column
    derivation = explained("finance/agent", *lines)

    assert derivation.explanation.in_mesh is in_mesh
    assert derivation.membership.why.startswith(why)


def test_a_pod_on_the_hosts_network_is_outside_the_mesh() -> None:
    derivation = explain(
        objects("+finance", file=HOST_NETWORK),
        "finance/agent",
        root_namespace=ROOT,
        trust_domain=TrustDomain.parse("cluster.local"),
    )
    assert not derivation.explanation.in_mesh
    assert "hostNetwork" in derivation.membership.why


def test_another_root_namespace_moves_the_meshs_policies() -> None:
    manifests = objects("Pod finance/web", "mesh-root/default STRICT")

    def mode(root: str) -> Mode:
        domain = TrustDomain.parse("cluster.local")
        return explain(
            manifests, "finance/web", root_namespace=root, trust_domain=domain
        ).explanation.mode

    assert mode("mesh-root") is Mode.STRICT
    assert mode("istio-system") is Mode.PERMISSIVE


def test_a_derivation_survives_the_way_through_json() -> None:
    derivation = explained(
        "finance/web", "+finance", "Pod finance/web 80", "finance/default STRICT"
    )

    encoded = msgspec.json.encode(derivation)

    assert msgspec.convert(msgspec.json.decode(encoded), Derivation, strict=False) == derivation


def test_a_workload_whose_pods_cannot_be_told_is_explained_by_labels() -> None:
    kafka = "apiVersion: kafka.strimzi.io/v1beta2\nkind: Kafka\nmetadata: {name: k, namespace: a}\n"

    with pytest.raises(InputError, match=r"no template in it; name its pods' labels: a/KEY=VALUE"):
        explained("a/k", kafka=kafka)


def wrapped(manifest: str) -> str:
    return f"""\
apiVersion: kubernetes.crossplane.io/v1alpha2
kind: Object
metadata: {{name: wrapper, namespace: far}}
spec: {{forProvider: {{manifest: {manifest}}}}}
"""


@pytest.mark.parametrize(
    ("manifest", "held"),
    [
        pytest.param(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, "
            "metadata: {name: open, namespace: finance}}",
            "PeerAuthentication finance/open",
            id="a policy of its namespace",
        ),
        pytest.param(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, "
            f"metadata: {{name: open, namespace: {ROOT}}}}}",
            f"PeerAuthentication {ROOT}/open",
            id="a policy of the mesh",
        ),
        pytest.param(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, "
            "metadata: {name: open, namespace: '{{ .team }}'}}",
            "PeerAuthentication open",
            id="a policy of a namespace that can't be told",
        ),
        pytest.param(
            "{apiVersion: v1, kind: Namespace, metadata: {name: finance}}",
            "Namespace finance",
            id="its namespace",
        ),
        pytest.param(
            "{apiVersion: v1, kind: '{{ .kind }}', metadata: {name: a}}",
            "what can't be told",
            id="anything",
        ),
    ],
)
def test_an_object_inside_another_may_hide_what_counts(manifest: str, held: str) -> None:
    derivation = explained("finance/web", "+finance", "Pod finance/web 80", more=wrapped(manifest))

    (problem,) = derivation.explanation.problems
    assert problem.subject == "Object.kubernetes.crossplane.io far/wrapper"
    assert problem.found == f"holds {held}, which may count here and isn't read"


@pytest.mark.parametrize(
    "manifest",
    [
        (
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, "
            "metadata: {name: open, namespace: other}}"
        ),
        "{apiVersion: v1, kind: Namespace, metadata: {name: other}}",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: finance}}",
    ],
    ids=["a policy of another namespace", "another namespace", "a workload"],
)
def test_an_object_inside_another_that_does_not_count_is_no_problem(manifest: str) -> None:
    derivation = explained("finance/web", "+finance", "Pod finance/web 80", more=wrapped(manifest))

    assert derivation.explanation.problems == ()
