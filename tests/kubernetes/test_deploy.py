"""deploy/ on a real API server, as `kubectl apply -k` installs it, and its limits."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lightkube import ApiError, Client
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.authorization_v1 import ResourceAttributes, SubjectAccessReviewSpec
from lightkube.models.certificates_v1 import CertificateSigningRequestSpec
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.authorization_v1 import SubjectAccessReview
from lightkube.resources.certificates_v1 import CertificateSigningRequest
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import ConfigMap, Event, Pod, Secret
from lightkube.types import PatchType
from tests.deploy.chart import DEPLOY, NAMESPACE
from tests.e2e.harness import TROTH, eventually
from tests.rig.harness import NODES, Cluster
from tests.rig.mesh import Load
from tests.rig.objects import find
from tests.rig.pods import descendant

from troth.cluster.contract import (
    CSR_USAGES,
    REVIEW_API,
    REVIEW_KIND,
    REVIEWS,
    SIGNER_NAME,
    report_lease,
)
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.mesh.model import CAPTURED_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.cluster

CONTROLLER = f"system:serviceaccount:{NAMESPACE}:troth-controller"
NODE = f"system:serviceaccount:{NAMESPACE}:troth-node"
SERVER = str(Path(__file__).parents[1] / "e2e" / "programs" / "hello.py")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of its own, on which nothing is installed but deploy/."""
    with pytest.MonkeyPatch.context() as patch, Cluster(nodes=NODES[:2]) as cluster:
        # A container's `troth` is the one that is tested.
        patch.setenv("PATH", f"{Path(TROTH).parent}:{os.environ['PATH']}")
        cluster.kubectl("apply", "-k", str(DEPLOY))
        yield cluster


@pytest.fixture(scope="module")
def shop(cluster: Cluster) -> str:
    """A namespace of the mesh with a server on one node and a client on the other, captured."""
    namespace = cluster.namespace("shop")
    for name, node, command in (
        ("web", "node-1", (sys.executable, SERVER, "web", "http:8080")),
        ("client", "node-2", ()),
    ):
        metadata = {"namespace": namespace, "name": name}
        cluster.run_pod({"metadata": metadata, "spec": {"nodeName": node}}, command)
    cluster.kubectl("label", "namespace", namespace, "troth.dev/mesh=enabled")
    for name in ("web", "client"):
        eventually(
            lambda name=name: captured(cluster, namespace, name) == "true",  # type: ignore[misc]  # bound at once
            what=f"{name}'s capture",
        )
    return namespace


def captured(cluster: Cluster, namespace: str, name: str) -> str | None:
    annotations = cluster.get(Pod, name, namespace)["metadata"].get("annotations", {})
    return str(annotations.get(CAPTURED_ANNOTATION))


def agent_pod(cluster: Cluster, node: str) -> str:
    (name,) = cluster.kubectl(
        *("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=node"),
        f"--field-selector=spec.nodeName={node}",
        *("-o", "jsonpath={.items[*].metadata.name}"),
    ).split()
    return name


@contextlib.contextmanager
def agent_of(cluster: Cluster, node: str) -> Iterator[Client]:
    """Somebody who has the token of the node's agent."""
    pod = agent_pod(cluster, node)
    with cluster.control_plane.client_with(cluster.token(NAMESPACE, pod)) as client:
        yield client


def test_the_controller_is_rolled_out_on_two_nodes(cluster: Cluster) -> None:
    cluster.kubectl(
        *("rollout", "status", "-n", NAMESPACE, "deployment/troth-controller", "--timeout=50s")
    )
    nodes = cluster.kubectl(
        *("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller"),
        *("-o", "jsonpath={.items[*].spec.nodeName}"),
    ).split()
    assert sorted(nodes) == ["node-1", "node-2"]


def test_a_ready_agent_is_rolled_out_on_every_node(cluster: Cluster) -> None:
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, "daemonset/troth-node", "--timeout=50s")
    ready = cluster.kubectl(
        *("get", "-n", NAMESPACE, "daemonset/troth-node", "-o", "jsonpath={.status.numberReady}")
    )
    assert ready == str(len(cluster.nodes))


def test_every_nodes_agent_reports(cluster: Cluster) -> None:
    for node in cluster.nodes:
        eventually(
            lambda node=node: find(cluster.client, Lease, report_lease(node), NAMESPACE),  # type: ignore[misc]  # bound at once
            what=f"the report of {node}",
        )


def test_a_policy_is_enforced(cluster: Cluster, shop: str) -> None:
    address = cluster.get(Pod, "web", shop)["status"]["podIP"]
    cluster.run_pod(
        {"metadata": {"namespace": "default", "name": "stranger"}, "spec": {"nodeName": "node-2"}}
    )
    url = f"http://{address}:8080"
    assert cluster.fetch("default", "stranger", url) == "web 8080 /"
    cluster.apply(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"namespace": shop, "name": "strict"},
            "spec": {"mtls": {"mode": "STRICT"}},
        }
    )
    cluster.kubectl(
        *("wait", f"--namespace={shop}", "peerauthentication/strict", "--for=condition=Enforced"),
        "--timeout=50s",
    )
    assert cluster.fetch("default", "stranger", url) is None
    assert cluster.fetch(shop, "client", url) == "web 8080 /"


def test_a_rollout_of_the_agents_fails_no_request(cluster: Cluster, shop: str) -> None:
    address = cluster.get(Pod, "web", shop)["status"]["podIP"]
    agents = ("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=node", "-o=name")
    before = set(cluster.kubectl(*agents).split())
    with Load(cluster, shop, "client", f"{address}:8080"):
        cluster.kubectl("rollout", "restart", "-n", NAMESPACE, "daemonset/troth-node")
        cluster.kubectl(
            *("rollout", "status", "-n", NAMESPACE, "daemonset/troth-node", "--timeout=100s"),
            timeout=110,
        )
    eventually(
        lambda: before.isdisjoint(cluster.kubectl(*agents).split()), what="the old agents' end"
    )


def test_envoy_has_the_capabilities_for_its_sockets_and_no_other(
    cluster: Cluster, shop: str
) -> None:
    assert shop
    worker = cluster.worker(NAMESPACE, agent_pod(cluster, "node-1"))
    (container,) = worker.containers.values()
    envoy = eventually(lambda: descendant(container.pid, 1), what="Envoy")
    status = Path(f"/proc/{envoy}/status").read_text()
    found = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Cap"))
    net_admin, sys_admin = 1 << 12, 1 << 21
    assert int(found["CapEff"], 16) == net_admin | sys_admin
    assert int(found["CapBnd"], 16) == net_admin | sys_admin


def troth(
    cluster: Cluster, *arguments: str, user: str = "admin"
) -> subprocess.CompletedProcess[str]:
    """Run `troth` as a user, by default the cluster's administrator."""
    kubeconfig = cluster.control_plane.kubeconfig(user, outside=True)
    return subprocess.run(
        [TROTH, *arguments, f"--kubeconfig={kubeconfig}"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_rotation_that_is_not_confirmed_does_not_begin(cluster: Cluster) -> None:
    done = troth(cluster, "ca", "rotate")
    assert done.returncode == 1
    state = json.loads(troth(cluster, "ca", "status", "-o", "json").stdout)
    assert not state["requested"]


def test_the_root_is_shown(cluster: Cluster) -> None:
    done = troth(cluster, "ca", "status")
    assert done.returncode == 0
    assert "stable: one root signs and is believed" in done.stdout


def test_where_there_is_no_authority_that_is_told(cluster: Cluster) -> None:
    done = troth(cluster, "ca", "status", "--namespace=default")
    assert done.returncode == 1
    assert "no certificate authority in namespace default" in done.stderr


def test_nothing_is_in_the_way_of_an_installation(cluster: Cluster) -> None:
    done = troth(cluster, "check", "-o", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["findings"]) == (0, [])
    assert report["version"].startswith("v1.")


def test_what_is_in_the_way_of_a_namespace_is_found_before_it_is_in_the_mesh(
    cluster: Cluster,
) -> None:
    cluster.namespace("old", {"istio-injection": "enabled"})
    cluster.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "old", "name": "web"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 8080}]}]},
        }
    )
    container = {"ports": [{"containerPort": 15006}]}
    cluster.run_pod(
        {"metadata": {"namespace": "old", "name": "proxy"}, "spec": {"containers": [container]}},
        ready=False,
    )
    assert troth(cluster, "check").returncode == 0
    done = troth(cluster, "check", "--namespace=old")
    assert done.returncode == 1
    for line in (
        "error: Namespace old is in Istio's mesh, too (istio-injection=enabled).",
        "error: Pod old/proxy declares TCP port 15006.",
        "error: NetworkPolicy old/web admits TCP port 8080 (ingress rule 0), but not 15007.",
        "3 errors",
    ):
        assert line in done.stdout.splitlines()
    cluster.kubectl("delete", "namespace", "old", "--wait=false")


def test_who_may_see_little_is_told_what_was_not_looked_at(cluster: Cluster) -> None:
    done = troth(cluster, "check", "-o", "json", user="jane")
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == 0
    assert [each["where"] for each in findings if each["code"] == "not-looked-at"] == [
        "customresourcedefinitions.apiextensions.k8s.io",
        "nodes",
        "namespaces",
        "pods",
        "networkpolicies.networking.k8s.io",
    ]
    (rights,) = [each for each in findings if each["code"] == "no-right-to-install"]
    assert "create clusterroles" in rights["what"]


def test_where_no_cluster_is_the_check_says_so(cluster: Cluster) -> None:
    done = troth(cluster, "check", "--context=other")
    assert done.returncode == 2
    assert "other" in done.stderr


CSR = {"group": "certificates.k8s.io", "resource": "certificatesigningrequests"}
SIGNERS = {"group": "certificates.k8s.io", "resource": "signers"}
POLICIES = {"group": "security.istio.io", "resource": "peerauthentications"}
REVIEWS_OF_SHOP = {"group": REVIEW_API[0], "resource": REVIEWS, "namespace": "shop"}
ROOT = {"resource": "secrets", "namespace": NAMESPACE, "name": "troth-ca"}
BUNDLE = {"resource": "configmaps", "namespace": NAMESPACE, "name": "troth-trust-bundle"}


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"verb": "get", **ROOT}, id="read its Secret"),
        pytest.param({"verb": "sign", **SIGNERS, "name": SIGNER_NAME}, id="sign"),
        pytest.param(
            {"verb": "patch", **POLICIES, "namespace": "default", "subresource": "status"},
            id="write a policy's status",
        ),
    ],
)
def test_the_controller_may(cluster: Cluster, asked: dict[str, Any]) -> None:
    assert may(cluster, CONTROLLER, asked)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"verb": "get", **ROOT, "name": "other"}, id="read another Secret beside it"),
        pytest.param({"verb": "get", **ROOT, "namespace": "default"}, id="read a Secret elsewhere"),
        pytest.param({"verb": "list", "resource": "secrets"}, id="list Secrets"),
        pytest.param({"verb": "delete", **ROOT}, id="delete the root"),
        pytest.param(
            {"verb": "sign", **SIGNERS, "name": "kubernetes.io/kubelet-serving"},
            id="sign for another signer",
        ),
        pytest.param({"verb": "patch", **BUNDLE, "name": "other"}, id="write other ConfigMaps"),
        pytest.param({"verb": "patch", **POLICIES, "namespace": "default"}, id="write policies"),
        pytest.param(
            {"verb": "create", "resource": "pods", "namespace": "default"}, id="make pods"
        ),
        pytest.param(
            {
                "verb": "create",
                "resource": "serviceaccounts",
                "namespace": NAMESPACE,
                "name": "troth-node",
                "subresource": "token",
            },
            id="make tokens",
        ),
    ],
)
def test_the_controller_may_not(cluster: Cluster, asked: dict[str, Any]) -> None:
    assert not may(cluster, CONTROLLER, asked)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"verb": "get", **ROOT}, id="read the root's key"),
        pytest.param({"verb": "get", "resource": "secrets", "namespace": "default"}, id="Secrets"),
        pytest.param({"verb": "update", **CSR, "subresource": "approval"}, id="approve requests"),
        pytest.param({"verb": "update", **CSR, "subresource": "status"}, id="sign requests"),
        pytest.param({"verb": "sign", **SIGNERS, "name": SIGNER_NAME}, id="be the signer"),
        pytest.param({"verb": "patch", **BUNDLE}, id="change the roots"),
        pytest.param({"verb": "patch", **POLICIES, "subresource": "status"}, id="write status"),
        pytest.param({"verb": "delete", "resource": "pods"}, id="delete pods"),
        pytest.param(
            {"verb": "create", "resource": "pods", "subresource": "eviction"}, id="evict pods"
        ),
        pytest.param({"verb": "create", **REVIEWS_OF_SHOP}, id="ask"),
        pytest.param({"verb": "patch", **REVIEWS_OF_SHOP}, id="change questions"),
        pytest.param({"verb": "create", "resource": "pods", "subresource": "exec"}, id="exec"),
        pytest.param({"verb": "patch", "resource": "nodes", "name": "node-1"}, id="change nodes"),
        pytest.param(
            {
                "verb": "create",
                "group": "coordination.k8s.io",
                "resource": "leases",
                "namespace": "kube-system",
            },
            id="write Leases elsewhere",
        ),
    ],
)
def test_a_node_agent_may_not(cluster: Cluster, asked: dict[str, Any]) -> None:
    assert not may(cluster, NODE, asked)


def may(cluster: Cluster, user: str, asked: dict[str, Any]) -> bool:
    review = SubjectAccessReview(
        spec=SubjectAccessReviewSpec(
            user=user,
            groups=["system:authenticated"],
            resourceAttributes=ResourceAttributes(**asked),
        )
    )
    answer = cluster.client.create(review)
    assert answer.status is not None
    return bool(answer.status.allowed)


def marked(value: str | None = "true") -> dict[str, Any]:
    return {"metadata": {"annotations": {CAPTURED_ANNOTATION: value}}}


def test_a_node_agent_marks_pods_of_its_own_node_only(cluster: Cluster, shop: str) -> None:
    with agent_of(cluster, "node-1") as agent:
        patch(agent, shop, "web", marked())
        words = refusal(lambda: patch(agent, shop, "client", marked(None)))
    assert "only mark the pods of its own node" in words
    assert captured(cluster, shop, "client") == "true"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {"app": "other"}}}, id="label"),
        pytest.param({"metadata": {"annotations": {"other": "x"}}}, id="annotation"),
        pytest.param({"metadata": {"finalizers": ["example.com/keep"]}}, id="finalizer"),
        pytest.param({"spec": {"activeDeadlineSeconds": 1}}, id="spec"),
        pytest.param({"spec": {"containers": [{"name": "app", "image": "evil"}]}}, id="image"),
    ],
)
def test_a_node_agent_changes_nothing_else_of_a_pod(
    cluster: Cluster, shop: str, change: dict[str, Any]
) -> None:
    with agent_of(cluster, "node-1") as agent:
        assert "nothing of a pod but the annotation" in refusal(
            lambda: patch(agent, shop, "web", change)
        )


def test_a_node_agent_writes_its_own_report_only(cluster: Cluster) -> None:
    with agent_of(cluster, "node-1") as agent:
        for name in (report_lease("node-2"), "troth-controller"):
            report = lease(name)
            words = refusal(lambda report=report: agent.apply(report, force=True))  # type: ignore[misc]  # called at once
            assert "only write the report of its own node" in words
        agent.apply(lease(report_lease("node-1")), force=True)


def test_a_node_agent_writes_events_in_its_own_name_only(cluster: Cluster, shop: str) -> None:
    def event(name: str, *, component: str = "troth-node", host: str = "node-1") -> Event:
        return Event(
            metadata=ObjectMeta(name=name, namespace=shop),
            involvedObject=ObjectReference(kind="Pod", namespace=shop, name="web"),
            reason="CaptureRestored",
            message="tried",
            type="Warning",
            source=EventSource(component=component, host=host),
        )

    with agent_of(cluster, "node-1") as agent:
        agent.create(event("own"))
        agent.patch(Event, "own", {"count": 2}, namespace=shop)
        for other in (
            event("others", host="node-2"),
            event("kubelets", component="kubelet"),
        ):
            words = refusal(lambda other=other: agent.create(other))  # type: ignore[misc]  # called at once
            assert "only write Events in its own node's name" in words
    cluster.client.delete(Event, "own", namespace=shop)


def test_a_node_agent_asks_no_other_signer(cluster: Cluster) -> None:
    with agent_of(cluster, "node-1") as agent:
        words = refusal(lambda: agent.create(request("kubernetes.io/kube-apiserver-client")))
    assert "only ask the signer troth.dev/workload" in words


def test_a_node_agent_deletes_requests_of_its_own_node_only(cluster: Cluster) -> None:
    with agent_of(cluster, "node-1") as own, agent_of(cluster, "node-2") as other:
        made = own.create(request(SIGNER_NAME))
        assert made.metadata is not None
        name = made.metadata.name or ""
        words = refusal(lambda: other.delete(CertificateSigningRequest, name))
        assert "only delete requests of its own node" in words
        own.delete(CertificateSigningRequest, name)


def test_a_token_of_an_agent_that_names_no_node_is_good_for_nothing(
    cluster: Cluster, shop: str
) -> None:
    token = cluster.kubectl("create", "token", "troth-node", f"--namespace={NAMESPACE}").strip()
    with cluster.control_plane.client_with(token) as agent:
        assert "own node" in refusal(lambda: patch(agent, shop, "web", marked()))
        report = lease(report_lease("node-1"))
        assert "own node" in refusal(lambda: agent.apply(report, force=True))


@contextlib.contextmanager
def the_controller(cluster: Cluster) -> Iterator[Client]:
    """Somebody who has the controller's token."""
    token = cluster.kubectl("create", "token", "troth-controller", f"--namespace={NAMESPACE}")
    with cluster.control_plane.client_with(token.strip()) as client:
        yield client


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(Secret(metadata=ObjectMeta(namespace=NAMESPACE, name="x")), id="Secret"),
        pytest.param(ConfigMap(metadata=ObjectMeta(namespace="default", name="x")), id="ConfigMap"),
        pytest.param(Lease(metadata=ObjectMeta(namespace=NAMESPACE, name="x")), id="Lease"),
    ],
)
def test_the_controller_makes_objects_with_its_own_names_only(cluster: Cluster, made: Any) -> None:
    with the_controller(cluster) as controller:
        words = refusal(lambda: controller.create(made))
    assert "may only create troth-" in words


def test_the_controller_cannot_have_a_service_accounts_token_written_into_its_secret(
    cluster: Cluster,
) -> None:
    secret = Secret(
        metadata=ObjectMeta(
            namespace=NAMESPACE,
            name="troth-ca",
            annotations={"kubernetes.io/service-account.name": "troth-node"},
        ),
        type="kubernetes.io/service-account-token",
    )
    with the_controller(cluster) as controller:
        assert "of type Opaque" in refusal(lambda: controller.create(secret))


def test_who_may_view_a_namespace_may_view_its_policies(cluster: Cluster, shop: str) -> None:
    cluster.kubectl(
        *("create", "rolebinding", "viewer", f"--namespace={shop}"),
        "--clusterrole=view",
        "--user=v",
    )
    asked = {**POLICIES, "namespace": shop}
    eventually(lambda: may(cluster, "v", {"verb": "list", **asked}), what="the aggregation")
    assert not may(cluster, "v", {"verb": "patch", **asked})
    assert not may(cluster, "v", {"verb": "list", **asked, "namespace": "default"})


def test_a_node_agent_answers_only_what_its_own_node_is_asked(cluster: Cluster, shop: str) -> None:
    kind = create_namespaced_resource(*REVIEW_API, REVIEW_KIND, REVIEWS)
    review = {
        "apiVersion": "troth.dev/v1alpha1",
        "kind": "ConnectionReview",
        "metadata": {"namespace": shop, "name": "to-node-2"},
        "spec": {"nodeName": "node-2", "question": "Events"},
    }
    cluster.apply(review)
    status = {"status": {"remedy": "believe me"}}
    with agent_of(cluster, "node-1") as agent:
        words = refusal(
            lambda: agent.patch(
                kind.Status, "to-node-2", status, namespace=shop, patch_type=PatchType.MERGE
            )
        )
    assert "only answer what its own node is asked" in words
    cluster.kubectl("delete", "connectionreview", "to-node-2", f"--namespace={shop}")


def test_a_namespaces_editors_may_ask_about_it_and_its_viewers_may_when_told_so(
    cluster: Cluster, shop: str
) -> None:
    asked = ("auth", "can-i", "create", "connectionreviews.troth.dev", f"--namespace={shop}")
    for role, user, may in (("edit", "eve", "yes"), ("view", "vic", "no")):
        cluster.kubectl(
            *("create", "rolebinding", user, f"--namespace={shop}"),
            *(f"--clusterrole={role}", f"--user={user}"),
        )
        eventually(
            lambda user=user, may=may: (  # type: ignore[misc]  # bound at once
                cluster.kubectl(*asked, f"--as={user}", check=False).strip() == may
            ),
            what=f"that {user} may ask: {may}",
        )


def test_others_write_pods_and_leases_as_before(cluster: Cluster, shop: str) -> None:
    cluster.kubectl("annotate", "pod", "web", f"--namespace={shop}", "note=mine")
    cluster.client.apply(lease("anybodys", namespace=shop), force=True)


def test_applying_it_again_changes_nothing(cluster: Cluster) -> None:
    assert cluster.kubectl("diff", "-k", str(DEPLOY)) == ""


def patch(agent: Client, namespace: str, name: str, change: dict[str, Any]) -> None:
    agent.patch(Pod, name, change, namespace=namespace, patch_type=PatchType.STRATEGIC)


def lease(name: str, namespace: str = NAMESPACE) -> Lease:
    return Lease(
        metadata=ObjectMeta(namespace=namespace, name=name), spec=LeaseSpec(holderIdentity="test")
    )


def request(signer: str) -> CertificateSigningRequest:
    identity = SpiffeId.for_service_account(TrustDomain.parse("cluster.local"), "none", "none")
    csr = base64.b64encode(build_csr(new_key(), identity)).decode()
    return CertificateSigningRequest(
        metadata=ObjectMeta(generateName="test-"),
        spec=CertificateSigningRequestSpec(request=csr, signerName=signer, usages=list(CSR_USAGES)),
    )


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(ApiError) as caught:
        action()
    assert caught.value.status.message is not None
    return caught.value.status.message
