from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.explain.notation import ROOT, objects

from troth.explain.validate import validate

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: finance}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""


def found(*lines: str, **files: str) -> list[str]:
    """The problems without their place, each with its severity."""
    report = validate(objects(*lines, **files), root_namespace=ROOT)
    return [
        f"{each.severity}: {each.subject}: {each.path}: {each.found}; {each.wanted}"
        for each in report.problems
    ]


IN_A_CLUSTER = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: finance}
spec:
  hostIPC: true
  shareProcessNamespace: false
  nodeSelector: {disk: fast}
  securityContext: {runAsUser: 1000, runAsNonRoot: false, sysctls: [{name: a, value: b}]}
  containers:
  - name: web
    resources: {limits: {memory: 64Mi}, requests: {memory: 32Mi}}
    livenessProbe: {tcpSocket: {port: 80}}
    lifecycle: {stopSignal: SIGQUIT}
    securityContext: {readOnlyRootFilesystem: true, seccompProfile: {type: RuntimeDefault}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: finance}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: finance}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: finance}
spec:
  selector: {matchLabels: {app: agent}}
  template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: agent}]}}
"""


def test_how_a_service_is_reached_from_outside_means_nothing_to_a_local_mesh() -> None:
    outward = SERVICE.replace("spec:", "spec:\n  type: LoadBalancer\n  externalIPs: [192.0.2.9]")
    report = validate(objects(yaml=outward), root_namespace=ROOT, local=True)
    assert [(each.path, each.found) for each in report.problems] == [
        ("spec.type", "is LoadBalancer, which is as good as ClusterIP here"),
        ("spec.externalIPs", "has no effect in a local mesh"),
    ]


def test_what_means_nothing_to_a_local_mesh_is_told_when_asked_and_only_then() -> None:
    assert found(yaml=IN_A_CLUSTER) == []
    counted = validate(objects(yaml=IN_A_CLUSTER), root_namespace=ROOT, count_local=True)
    assert (counted.problems, counted.without_effect) == ((), 6)
    report = validate(objects(yaml=IN_A_CLUSTER), root_namespace=ROOT, local=True)
    assert (report.errors, report.without_effect) == (0, 6)
    assert [(each.subject, each.path, each.found) for each in report.problems] == [
        (
            "NetworkPolicy.networking.k8s.io",
            "",
            "has no effect on local pods (1 object): pods reach each other whatever it says",
        ),
        *(
            ("Pod finance/web", path, "has no effect on a local pod")
            for path in (
                "hostIPC",
                "securityContext.sysctls",
                "containers[0].resources.limits.memory",
                "containers[0].lifecycle.stopSignal",
                "containers[0].securityContext.seccompProfile.type",
            )
        ),
    ]


@pytest.mark.parametrize(
    ("container", "spec", "path"),
    [
        ("ports: [{containerPort: 80, hostPort: 8080}]", "", "containers[0].ports[0].hostPort"),
        (
            "volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]",
            "volumes: [{name: v}]",
            "containers[0].volumeMounts[0].mountPropagation",
        ),
        (
            "readinessProbe: {httpGet: {port: 80, host: example.org}}",
            "",
            "containers[0].readinessProbe.httpGet.host",
        ),
        ("lifecycle: {stopSignal: SIGINT}", "", "containers[0].lifecycle.stopSignal"),
        ("tty: true", "", "containers[0].tty"),
        ("", "hostPID: true", "hostPID"),
        ("", "hostIPC: true", "hostIPC"),
        (
            "",
            "volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]",
            "volumes[0].emptyDir.sizeLimit",
        ),
        (
            "",
            "volumes: [{name: v, secret: {secretName: s, items: [{key: a, path: b, mode: 256}]}}]",
            "volumes[0].secret.items[0].mode",
        ),
    ],
)
def test_a_field_that_a_local_pod_passes_over_is_told(container: str, spec: str, path: str) -> None:
    text = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n"
        f"  {spec}\n  containers:\n  - name: web\n    command: [web]\n    {container}\n"
    )
    report = validate(objects(yaml=text), root_namespace=ROOT, local=True)
    assert [(each.path, each.found) for each in report.problems] == [
        (path, "has no effect on a local pod")
    ]


@pytest.mark.parametrize(
    "spec",
    [
        "tolerations: [{operator: Exists}]",
        "nodeSelector: {disk: fast}",
        "affinity: {nodeAffinity: {}}",
        "priorityClassName: high",
        "topologySpreadConstraints: [{maxSkew: 1}]",
        "imagePullSecrets: [{name: s}]",
        "volumes: [{name: v, secret: {secretName: s, defaultMode: 420}}]",
        "hostAliases: [{ip: 10.9.9.9, hostnames: [a]}]",
        "dnsConfig: {nameservers: [10.9.9.9]}",
        "securityContext: {runAsUser: 1000, fsGroup: 1000}",
        "initContainers: [{name: side, restartPolicy: Always, command: [side]}]",
    ],
)
def test_what_a_local_pod_acts_on_or_need_not_is_not_told(spec: str) -> None:
    text = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n"
        f"  {spec}\n  containers:\n  - {{name: web, command: [web]}}\n"
    )
    assert validate(objects(yaml=text), root_namespace=ROOT, local=True).problems == ()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        pytest.param(
            ["Deployment finance/web 8080", "finance/p {app=wbe} STRICT"],
            "spec.selector.matchLabels: doesn't match the only workload given in namespace "
            "finance; they have app=web",
            id="a selector that matches no workload",
        ),
        pytest.param(
            ["Pod finance/web", "Pod finance/db", "finance/p {tier=db} STRICT"],
            "spec.selector.matchLabels: doesn't match any of the 2 workloads given in namespace "
            "finance; none of them has a label tier",
            id="a selector for a label nobody has",
        ),
        pytest.param(
            ["Pod finance/a {x=1,y=2}", "Pod finance/b {x=2,y=1}", "finance/p {x=1,y=1} STRICT"],
            "spec.selector.matchLabels: doesn't match any of the 2 workloads given in namespace "
            "finance; name labels that they have together",
            id="labels that only different workloads have",
        ),
        pytest.param(
            ["Pod shop/web", "Pod finance/api", "finance/p {app=web} STRICT"],
            "spec.selector.matchLabels: doesn't match the only workload given in namespace "
            "finance; a policy holds in its own namespace only: move it to that of Pod shop/web, "
            "which it matches",
            id="a selector for a workload of another namespace",
        ),
        pytest.param(
            ["+finance", "Pod finance/web", "fnance/p {app=web} STRICT"],
            "metadata.namespace: is fnance, and no other object given is in that namespace; a "
            "policy holds in its own namespace only: move it to that of Pod finance/web, which it "
            "matches",
            id="a namespace of which nothing is given, with a selector for another's workload",
        ),
        pytest.param(
            ["+finance", "Pod finance/web", "fnance/p STRICT"],
            "metadata.namespace: is fnance, and no other object given is in that "
            "namespace; those given are finance",
            id="a namespace of which nothing is given, though others are",
        ),
        pytest.param(
            ["finance/old STRICT", "finance/p DISABLE"],
            ": never has an effect, because finance/old holds wherever it does and only one "
            "counts: finance/old comes first by name (neither has a creationTimestamp); merge the "
            "two into one policy",
            id="a policy shadowed by another of its scope",
        ),
        pytest.param(
            [
                "Pod finance/web {app=web,v=1}",
                "finance/a {v=1} STRICT",
                "finance/p {app=web} STRICT",
            ],
            "spec.selector: also selects workloads of finance/a (those with v=1, app=web), and has "
            "no effect on them: finance/a comes first by name (neither has a creationTimestamp); "
            "make the two selectors exclude each other, or merge the two into one policy",
            id="two policies without timestamp that meet on a workload",
        ),
        pytest.param(
            ["Deployment finance/web 8080 9090", "finance/p {app=web} STRICT 8081=DISABLE"],
            "spec.portLevelMtls[8081]: is a port that no container of Deployment finance/web "
            "declares; the ports declared are 8080, 9090",
            id="a port no container has",
        ),
        pytest.param(
            ["Pod finance/web 53/UDP 8080", "finance/p {app=web} STRICT 53=DISABLE"],
            "spec.portLevelMtls[53]: is a port that no container of Pod finance/web declares; the "
            "ports declared are 8080",
            id="a port that is UDP only",
        ),
        pytest.param(
            ["-finance", "finance/p STRICT"],
            "spec.mtls.mode: is STRICT, but protects nothing: namespace finance isn't in the mesh; "
            "label the namespace with troth.dev/mesh: enabled",
            id="STRICT outside the mesh",
        ),
        pytest.param(
            ["istio-system/p {app=web} STRICT"],
            "spec.selector: a policy with a selector in the root namespace (istio-system) holds "
            "for no workload; move it to the workload's namespace, or leave the selector out to "
            "make it mesh-wide",
            id="a selector in the root namespace",
        ),
    ],
)
def test_a_policy_that_is_surely_not_meant_is_a_warning(lines: list[str], problem: str) -> None:
    namespace = next(
        (name for name in ("istio-system", "fnance") if any(name in line for line in lines)),
        "finance",
    )
    assert found(*lines) == [f"warning: PeerAuthentication {namespace}/p: {problem}"]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(
            ["Pod finance/web 8080", "finance/p {app=web} STRICT 8080=DISABLE"], id="fits"
        ),
        pytest.param(["finance/p {app=web} STRICT"], id="no workload is given at all"),
        pytest.param(
            ["Pod other/web", "finance/p {app=db} STRICT"], id="workloads of other namespaces only"
        ),
        pytest.param(
            ["Pod finance/web", "finance/p {app=web} STRICT 8080=DISABLE"], id="no declared ports"
        ),
        pytest.param(
            [
                "Pod finance/a {app=x} 1",
                "Pod finance/b {app=x} 2",
                "finance/p {app=x} STRICT 2=UNSET",
            ],
            id="one of several workloads has the port",
        ),
        pytest.param(["+finance", "finance/p STRICT"], id="STRICT in the mesh"),
        pytest.param(["finance/p STRICT"], id="STRICT in a namespace nobody describes"),
        pytest.param(["-finance", "finance/p PERMISSIVE"], id="PERMISSIVE outside the mesh"),
        pytest.param(["-istio-system", "istio-system/p STRICT"], id="mesh-wide STRICT"),
        pytest.param(["finance/p STRICT", "finance/q {app=x} DISABLE"], id="two scopes"),
        pytest.param(["finance/p STRICT", "other/q STRICT"], id="two namespaces"),
    ],
)
def test_a_policy_that_may_be_meant_is_no_problem(lines: list[str]) -> None:
    assert found(*lines) == []


def test_a_services_port_in_port_level_mtls_is_traced_to_the_containers() -> None:
    lines = ["Deployment finance/web 8080", "finance/p {app=web} STRICT 80=DISABLE"]

    (problem,) = found(*lines, service=SERVICE)

    assert problem.endswith("80 is Service finance/web's port; write the container's, 8080")


@pytest.mark.parametrize(
    "api_version",
    ["authentication.istio.io/v1alpha1", "security.isto.io/v1", "security.istio.io/v2", "v1"],
)
def test_a_policy_of_an_unknown_api_version_is_an_error(api_version: str) -> None:
    text = f"apiVersion: {api_version}\nkind: PeerAuthentication\nmetadata: {{name: p}}\n"

    (problem,) = found(file=text)

    assert problem.startswith("error: PeerAuthentication default/p: apiVersion: ")
    assert problem.endswith("; write security.istio.io/v1 or security.istio.io/v1beta1")


def test_a_foreign_kind_that_shares_a_name_is_none_of_our_business() -> None:
    text = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: hello}\n"

    report = validate(objects(file=text), root_namespace=ROOT)

    assert report.valid
    assert report.ignored == {"Service.serving.knative.dev": 1}


def test_warnings_leaveread_objects_valid_and_errors_do_not() -> None:
    warned = validate(objects("-finance", "finance/p STRICT"), root_namespace=ROOT)
    assert (warned.valid, warned.errors, warned.warnings) == (True, 0, 1)

    refused = validate(objects(file="kind: Pod"), root_namespace=ROOT)
    assert (refused.valid, refused.errors, refused.warnings) == (False, 1, 0)


def test_problems_come_by_file_and_line() -> None:
    bad = "kind: Pod\n---\nkind: Pod\n"

    report = validate(objects("-a", "a/p STRICT", b=bad, a=bad), root_namespace=ROOT)

    places = [str(each.location) for each in report.problems]
    assert places == ["a.yaml:1", "a.yaml:3", "b.yaml:1", "b.yaml:3", "lines.yaml:3"]


def test_the_json_form_is_stable() -> None:
    report = validate(objects("-finance", "finance/p STRICT"), root_namespace=ROOT)

    assert msgspec.json.decode(msgspec.json.encode(report)) == {
        "schema": "troth/validate/v1",
        "valid": True,
        "errors": 0,
        "warnings": 1,
        "objects": {"Namespace": 1, "PeerAuthentication": 1},
        "ignored": {},
        "without_effect": None,
        "problems": [
            {
                "subject": "PeerAuthentication finance/p",
                "path": "spec.mtls.mode",
                "found": "is STRICT, but protects nothing: namespace finance isn't in the mesh",
                "wanted": "label the namespace with troth.dev/mesh: enabled",
                "severity": "warning",
                "location": {"file": "lines.yaml", "line": 3},
            }
        ],
    }


LINES = [
    "+finance",
    "-legacy",
    "Pod finance/web 8080",
    "Pod legacy/web 8080",
    "finance/p {app=web} STRICT 81=DISABLE",
    "finance/q {app=web} DISABLE",
    "legacy/p STRICT",
    "istio-system/p {app=x} STRICT",
]


@given(order=st.permutations(LINES))
def test_the_order_of_documents_never_matters(order: list[str]) -> None:
    def problems(lines: list[str]) -> set[tuple[str, str, str]]:
        report = validate(objects(*lines), root_namespace=ROOT)
        return {(each.subject, each.found, each.severity) for each in report.problems}

    assert problems(order) == problems(LINES)


def test_a_selector_may_be_for_pods_that_no_manifest_tells_of() -> None:
    kafka = "apiVersion: kafka.strimzi.io/v1beta2\nkind: Kafka\nmetadata: {name: k, namespace: a}\n"
    policy = "a/kafka {cluster=k} STRICT"

    assert found("+a", "Pod a/web 80", policy, kafka=kafka) == []
