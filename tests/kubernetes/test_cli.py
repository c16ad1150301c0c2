"""explain, plan, validate and status against a cluster, with the rights of the user who asks."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from lightkube.resources.core_v1 import Pod
from tests.e2e.harness import eventually
from tests.rig.control import Control, in_thread, leading, running, soon
from tests.rig.harness import Cluster
from tests.rig.objects import PeerAuthentication

from troth.agent.cluster.report import NodeReporter
from troth.cli.app import run
from troth.cluster.contract import REPORT_SECONDS, NodeReport, policy_digest
from troth.kube.client import ApiClient
from troth.mesh.model import CAPTURED_ANNOTATION, MESH_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lightkube import SingleConfig

pytestmark = pytest.mark.cluster

WORKLOAD = """
apiVersion: apps/v1
kind: {kind}
metadata: {{namespace: {namespace}, name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers: [{{name: app, image: test, ports: [{{containerPort: 8080}}]}}]
"""
CRON = """
apiVersion: v1
kind: Pod
metadata: {namespace: legacy, name: cron, labels: {app: cron}}
spec: {containers: [{name: app, image: test}]}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane; nodes and pods are objects with nothing behind them."""
    with Cluster(nodes=()) as cluster:
        cluster.namespace("finance", {MESH_LABEL: "enabled"})
        cluster.namespace("istio-system")
        cluster.namespace("legacy")
        cluster.apply(WORKLOAD.format(kind="Deployment", namespace="finance", name="payments"))
        cluster.apply(WORKLOAD.format(kind="StatefulSet", namespace="finance", name="ledger"))
        cluster.apply(CRON)
        service = {"selector": {"app": "payments"}, "ports": [{"port": 80, "targetPort": 8080}]}
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"namespace": "finance", "name": "payments"},
                "spec": service,
            }
        )
        eventually(
            lambda: len(list(cluster.client.list(Pod, namespace="finance"))) == 2,
            what="the pods of the Deployment and the StatefulSet",
        )
        yield cluster


@pytest.fixture(autouse=True)
def _no_policies(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.kubectl("delete", "peerauthentications", "--all", "--all-namespaces")


class Asker:
    """Runs commands as somebody, and tells what they say."""

    def __init__(self, kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._kubeconfig = kubeconfig
        self._capsys = capsys
        self.complaint = ""

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """The JSON of a command; None if it said nothing."""
        self._capsys.readouterr()
        whole = [*arguments, f"--kubeconfig={self._kubeconfig}", "-o", "json"]
        result = run(whole)
        said = self._capsys.readouterr()
        self.complaint = said.err
        assert result == code, said
        return json.loads(said.out) if said.out else None


@pytest.fixture
def ask(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> Asker:
    """As the administrator."""
    return Asker(cluster.control_plane.kubeconfig(outside=True), capsys)


@pytest.fixture
def jane(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> Iterator[Asker]:
    """As one who may view the workloads and policies of finance, and nothing else."""
    cluster.kubectl(
        *("create", "role", "policies", "-n=finance", "--verb=list"),
        "--resource=peerauthentications.security.istio.io",
    )
    for name, role in (("view", "--clusterrole=view"), ("policies", "--role=policies")):
        cluster.kubectl("create", "rolebinding", name, "-n=finance", role, "--user=jane")
    asker = Asker(cluster.control_plane.kubeconfig("jane", outside=True), capsys)
    eventually(lambda: _may(cluster, "jane"), what="the roles' effect")
    yield asker
    cluster.kubectl("delete", "rolebindings,roles", "--all", "-n=finance")


def _may(cluster: Cluster, user: str) -> bool:
    answer = cluster.kubectl(
        *("auth", "can-i", "list", "peerauthentications", "-n=finance", f"--as={user}"),
        check=False,
    )
    return answer.strip() == "yes"


def policy(name: str, mode: str, namespace: str = "finance", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"mtls": {"mode": mode}, **spec},
    }


PAYMENTS: dict[str, Any] = {
    "selector": {"matchLabels": {"app": "payments"}},
    "portLevelMtls": {"8080": {"mode": "DISABLE"}},
}


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Write objects to a file, and tell its path."""

    def write(*objects: dict[str, Any]) -> str:
        path = tmp_path / "new.yaml"
        path.write_text("\n---\n".join(map(json.dumps, objects)))
        return str(path)

    return write


@pytest.mark.parametrize(
    "workload", ["finance/payments", "finance/ledger", "finance/app=payments", "legacy/cron"]
)
def test_explain_says_of_a_cluster_what_it_says_of_its_manifests(
    cluster: Cluster, ask: Asker, tmp_path: Path, workload: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.apply(policy("mesh", "STRICT", "istio-system"))
    cluster.apply(policy("payments", "STRICT", **PAYMENTS))
    kinds = "namespaces,deployments,statefulsets,services,peerauthentications"
    manifests = tmp_path / "cluster.yaml"
    pod = cluster.kubectl("get", "pod", "cron", "-n=legacy", "-o=yaml")
    listed = cluster.kubectl("get", kinds, "--all-namespaces", "-o=yaml")
    manifests.write_text(f"{listed}---\n{pod}")
    found = ask("explain", workload)
    assert run(["explain", workload, "-f", str(manifests), "-o", "json"]) == 0
    assert found == json.loads(capsys.readouterr().out)
    assert ask.complaint == ""


def test_a_name_without_a_namespace_is_one_of_the_namespace_given(ask: Asker) -> None:
    found = ask("explain", "payments", "-n", "finance")
    assert (found["workload"]["namespace"], found["mode"]) == ("finance", "PERMISSIVE")
    ask("explain", "payments", code=2)  # the context's namespace is default
    assert "workload default/payments" in ask.complaint


def test_a_running_pod_is_explained_by_its_own_name(cluster: Cluster, ask: Asker) -> None:
    cluster.apply(policy("payments", "STRICT", **PAYMENTS))
    name = cluster.kubectl("get", "pods", "-n=finance", "-l=app=payments", "-o=name").strip()
    found = ask("explain", name.removeprefix("pod/"), "-n", "finance")
    assert found["ports"]["8080"]["mode"] == "DISABLE"
    assert found["mode"] == "STRICT"


def test_the_oldest_policy_counts_whatever_its_name(
    cluster: Cluster, ask: Asker, file: Callable[..., str]
) -> None:
    cluster.apply(policy("zzz", "STRICT"))
    time.sleep(1.1)  # creationTimestamps are of whole seconds
    cluster.apply(policy("aaa", "DISABLE"))
    assert ask("explain", "finance/payments")["decided_by"]["policy"] == "finance/zzz"
    # So will one that is still to come, and one that is only changed keeps its age.
    new = file(policy("000", "PERMISSIVE"))
    assert ask("plan", "--with", new)["changes"] == []
    changed = file(policy("zzz", "PERMISSIVE"))
    changes = ask("plan", "--with", changed)["changes"]
    assert {each["decided_by"]["policy"] for each in changes} == {"finance/zzz"}
    assert {each["to"] for each in changes} == {"PERMISSIVE"}


def test_plan_names_the_clients_that_would_be_refused(
    cluster: Cluster, ask: Asker, file: Callable[..., str]
) -> None:
    new = policy("strict", "STRICT")
    del new["metadata"]["namespace"]
    found = ask("plan", "-n", "finance", "--with", file(new), code=1)
    assert found["would_break"] is True
    assert found["problems"] == []
    (group,) = found["breaks"]
    assert {"kind": "Pod", "namespace": "legacy", "name": "cron"} in group["clients"]
    assert {each["workload"]["name"] for each in group["ports"]} == {"payments", "ledger"}
    assert ask("explain", "finance/payments")["mode"] == "PERMISSIVE", "nothing was applied"
    cluster.apply(policy("strict", "STRICT"))
    gone = ask("plan", "-n", "finance", "--without", "PeerAuthentication/strict")
    assert {each["to"] for each in gone["changes"]} == {"PERMISSIVE"}


WEBHOOK = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": "payments"},
    "webhooks": [
        {
            "name": "payments.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "clientConfig": {"service": {"namespace": "finance", "name": "payments", "port": 80}},
        }
    ],
}


def test_plan_counts_the_front_doors_of_a_cluster(
    cluster: Cluster, ask: Asker, file: Callable[..., str]
) -> None:
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "shop", "namespace": "finance"},
        "spec": {"defaultBackend": {"service": {"name": "payments", "port": {"number": 80}}}},
    }
    for each in (WEBHOOK, ingress):
        cluster.apply(each)
    try:
        found = ask("plan", "--with", file(policy("strict", "STRICT")), code=1)
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", "payments")
        cluster.kubectl("delete", "ingress", "shop", "-n=finance")
    assert found["problems"] == []
    doors = [
        each["by"]
        for group in found["breaks"]
        for port in group["ports"]
        for each in port["front_doors"]
    ]
    assert sorted(doors) == ["Ingress finance/shop", "ValidatingWebhookConfiguration payments"]
    (proposal,) = found["exceptions"]
    assert proposal["manifest"]["spec"]["portLevelMtls"] == {"8080": {"mode": "PERMISSIVE"}}


def test_validate_finds_a_policy_that_selects_nothing(cluster: Cluster, ask: Asker) -> None:
    assert ask("validate")["problems"] == []
    cluster.apply(policy("lost", "STRICT", selector={"matchLabels": {"app": "paiments"}}))
    (problem,) = ask("validate", "-n", "finance", "--strict", code=1)["problems"]
    assert problem["subject"] == "PeerAuthentication finance/lost"
    assert problem["location"] is None
    assert ask("validate", "-n", "legacy", "--strict")["problems"] == []


def istios_kind(group: str, kind: str) -> dict[str, Any]:
    """A definition of one of Istio's kinds that takes anything."""
    plural = "authorizationpolicies" if kind == "AuthorizationPolicy" else f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": anything},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [version],
        },
    }


def test_status_says_once_each_what_validate_knows(cluster: Cluster, ask: Asker) -> None:
    selector = {"matchLabels": {"app": "payments"}}
    cluster.apply(policy("lost", "STRICT", selector={"matchLabels": {"app": "paiments"}}))
    cluster.apply(policy("literal", "STRICT", selector={"matchLabels": {"app": "a b"}}))
    port = policy("port", "STRICT", selector=selector)
    port["spec"]["portLevelMtls"] = {"80": {"mode": "DISABLE"}}
    cluster.apply(port)
    for group, kind in (
        ("security.istio.io", "AuthorizationPolicy"),
        ("networking.istio.io", "DestinationRule"),
    ):
        definition = istios_kind(group, kind)
        cluster.apply(definition)
        name = f"crd/{definition['metadata']['name']}"
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", name)
        metadata = {"namespace": "finance", "name": "web"}
        rule = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata}
        cluster.kubectl("create", "-f", "-", input=json.dumps(rule))

    def told() -> list[tuple[str, str]]:
        report = ask("status", code=1)  # as there is no controller
        return sorted((each["subject"], each["found"]) for each in report["problems"])

    (authorization, destination, literal, lost, wrong) = told()
    assert authorization[0] == "AuthorizationPolicy.security.istio.io"
    assert authorization[1].endswith("(finance/web): nobody is refused for what it says")
    assert destination[0] == "DestinationRule.networking.istio.io"
    assert literal == (
        "PeerAuthentication finance/literal",
        'is "a b", which no pod can have: it selects none',
    )
    assert lost[0] == "PeerAuthentication finance/lost"
    assert "doesn't match any of the 2 workloads given in namespace finance" in lost[1]
    assert wrong == (
        "PeerAuthentication finance/port",
        "is a port that no container of Deployment finance/payments declares",
    )
    cluster.kubectl("delete", "authorizationpolicies,destinationrules", "--all", "-n", "finance")


def test_explain_goes_on_without_mesh_wide_policies_where_none_could_matter(
    cluster: Cluster, jane: Asker
) -> None:
    cluster.apply(policy("finance", "STRICT"))
    found = jane("explain", "payments", "-n", "finance")
    assert (found["mode"], found["in_mesh"]) == ("STRICT", True)
    assert (
        "left out: peerauthentications.security.istio.io: no permission to list "
        "peerauthentications.security.istio.io in namespace istio-system" in jane.complaint
    )
    assert "verbs ['list']" in jane.complaint


def test_explain_refuses_to_answer_where_a_policy_it_may_not_see_could_decide(
    jane: Asker,
) -> None:
    assert jane("explain", "payments", "-n", "finance", code=1) is None
    assert "no permission to list peerauthentications" in jane.complaint
    assert "Role in namespace istio-system" in jane.complaint


@pytest.mark.parametrize(
    ("command", "lacks"),
    [
        pytest.param(("plan", "--without=Pod/legacy/cron"), "namespaces", id="plan"),
        pytest.param(("status",), "namespaces", id="status"),
    ],
)
def test_what_needs_the_whole_cluster_names_the_right_that_lacks(
    jane: Asker, command: tuple[str, ...], lacks: str
) -> None:
    assert jane(*command, code=1) is None
    assert f"no permission to list {lacks} in all namespaces" in jane.complaint


def test_validate_of_one_namespace_needs_rights_there_alone(cluster: Cluster, jane: Asker) -> None:
    cluster.apply(policy("lost", "STRICT", selector={"matchLabels": {"app": "paiments"}}))
    problems = jane("validate", "-n", "finance", code=1)["problems"]
    assert [each["subject"] for each in problems] == [
        "peerauthentications.security.istio.io",
        "PeerAuthentication finance/lost",
    ]


def report(cluster: Cluster, *, trouble: str = "", stale: bool = False) -> NodeReport:
    stored = cluster.client.list(PeerAuthentication, namespace="*")
    metadata = [each.metadata for each in stored]
    pairs = [(each.uid, each.generation) for each in metadata if each]
    digest = policy_digest([] if stale else pairs)  # type: ignore[arg-type]  # the server sets both
    return NodeReport(policies=digest, trouble=trouble)


async def tell(config: SingleConfig, node: str, uid: str, told: NodeReport) -> None:
    """Write a node's report as its agent does."""
    client = ApiClient(config, field_manager="troth-node")
    reporter = NodeReporter(client, node=node, node_uid=uid, namespace="troth-system")
    try:
        assert not await reporter._write(told, node, REPORT_SECONDS)
    finally:
        await client.aclose()


async def test_status_says_what_is_missing_until_nothing_is(
    cluster: Cluster, ask: Asker, capsys: pytest.CaptureFixture[str]
) -> None:
    control = await in_thread(Control, cluster, "troth-system")
    uid = await in_thread(control.node, "node-1")

    def web() -> None:
        cluster.service_account("finance", "web")
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": "finance", "name": "web"},
                "spec": {
                    "nodeName": "node-1",
                    "serviceAccountName": "web",
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "app", "image": "test"}],
                },
            }
        )
        status = {"phase": "Running", "podIP": "10.244.1.9", "podIPs": [{"ip": "10.244.1.9"}]}
        cluster.kubectl(
            *("patch", "pod", "web", "-n=finance", "--subresource=status"),
            *("-p", json.dumps({"status": status})),
        )
        cluster.apply(policy("finance", "STRICT"))

    def pod_named(found: Any, name: str) -> Any:
        return next(each for each in found["pods"] if each["name"] == name)

    def status(code: int = 1) -> Any:
        return ask("status", code=code)

    await in_thread(web)
    found = await in_thread(status)
    assert found["schema"] == "troth/cluster-status/v1"
    assert found["waiting_for"][:2] == [
        "a controller: none leads in namespace troth-system",
        "roots to believe in: ConfigMap troth-system/troth-trust-bundle has none",
    ]
    assert "node node-1: no agent reports" in found["waiting_for"]
    assert pod_named(found, "web")["why"] == "node node-1: no agent reports"
    assert pod_named(found, "ledger-0")["why"] == "it is not bound to a node yet"

    async with running(control.config(), control.settings()) as controller:
        await leading(controller)
        agent = await in_thread(control.agent, "node-1")
        await tell(agent, "node-1", uid, await in_thread(report, cluster, trouble="no nft"))
        found = await in_thread(status)
        (node,) = found["nodes"]
        assert (node["why"], node["alive"]) == ("no nft", True)
        assert found["controller"]["leader"] == controller.identity
        assert [root["signing"] for root in found["trust_bundle"]["roots"]] == [True]

        await tell(agent, "node-1", uid, await in_thread(report, cluster, stale=True))
        (node,) = (await in_thread(status))["nodes"]
        assert node["enforces_all"] is False

        await tell(agent, "node-1", uid, await in_thread(report, cluster))
        found = await in_thread(status)
        assert [each for each in found["waiting_for"] if "roots" not in each] == [
            "the capture of pod finance/web: the agent of node node-1 has not captured it yet"
        ]
        await in_thread(
            cluster.kubectl,
            *("annotate", "pod", "web", "-n=finance", f"{CAPTURED_ANNOTATION}=true"),
        )
        found = await soon(
            lambda: (seen := _status(ask)) and seen["ready"] and seen, what="readiness"
        )
    web_status = pod_named(found, "web")
    assert web_status["identity"] == "spiffe://cluster.local/ns/finance/sa/web"
    assert (web_status["mode"], web_status["decided_by"]["policy"]) == ("STRICT", "finance/finance")
    assert found["trust_bundle"]["missing_in"] == []
    assert datetime.fromisoformat(found["trust_bundle"]["roots"][0]["expires"]) > datetime.now(UTC)
    capsys.readouterr()


def _status(ask: Asker) -> Any:
    """What it says, whatever its exit code."""
    try:
        return ask("status")
    except AssertionError:
        return None
