from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.check.facts import MESH, codes, judged, namespace, network_policy, node, pod

from troth.check.facts import AgentsObject, Crd, MachineFacts
from troth.check.gather import foreign_redirects
from troth.check.judge import judge_machine
from troth.cluster.contract import NodeReport
from troth.cluster.installation import Lease, ReportedNode
from troth.errors import Severity

WEB = "podSelector: {matchLabels: {app: web}}"


def crd(*versions: dict[str, Any]) -> Crd:
    return msgspec.convert({"metadata": {"name": "crd"}, "spec": {"versions": versions}}, Crd)


def test_in_a_good_cluster_nothing_is_found() -> None:
    pods = (pod("containers: [{name: app, ports: [{containerPort: 8080}]}]"),)
    check = judged(namespaces=(MESH,), pods=pods, nodes=(node(),))
    assert check.findings == ()
    assert check.errors == 0


@pytest.mark.parametrize("args", [None, ["--drain-seconds=1"], ["--cni-programs=/x"], ["--cni"]])
def test_agents_without_the_plugin_are_told_of(args: list[str] | None) -> None:
    spec = {"template": {"spec": {"containers": [{"args": args}]}}}
    metadata = {"namespace": "troth-system", "name": "troth-node"}
    agents = msgspec.convert({"metadata": metadata, "spec": spec}, AgentsObject)
    found = [each.where for each in judged(agents=(agents,)).findings]
    assert found == ([] if args == ["--cni"] else ["DaemonSet troth-system/troth-node"])


@pytest.mark.parametrize("plugin", [None, True, False])
def test_a_node_without_the_plugin_is_told_of(plugin: bool | None) -> None:  # noqa: FBT001 - from the list
    report = NodeReport(policies="", plugin=plugin, trouble="/opt/cni/bin can't be written to")
    reported = ReportedNode(node="node-1", lease=Lease(), report=report)
    found = [(each.where, each.what) for each in judged(reports=(reported,)).findings]
    told = ("Node node-1", "has no CNI plugin (/opt/cni/bin can't be written to)")
    assert found == ([told] if plugin is False else [])


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        pytest.param({"version": "v1.30.14"}, "kubernetes-too-old", id="Kubernetes 1.30"),
        pytest.param({"version": "v0.9"}, "kubernetes-too-old", id="older than its first"),
        pytest.param({"version": ""}, "kubernetes-too-old", id="a version that isn't told"),
        pytest.param({"crd": None}, "no-definition", id="no definition of policies"),
        pytest.param(
            {"review_crd": None, "namespaces": (namespace("name: troth-system"),)},
            "no-definition",
            id="no definition of reviews where troth is installed",
        ),
        pytest.param(
            {"crd": crd({"name": "v1alpha1", "served": True})},
            "definition-unusable",
            id="a definition of another version",
        ),
        pytest.param(
            {"crd": crd({"name": "v1", "served": False})},
            "definition-unusable",
            id="a definition that isn't served",
        ),
        pytest.param(
            {"crd": crd({"name": "v1beta1", "served": True})},
            "definition-without-status",
            id="a definition without status",
        ),
        pytest.param(
            {"lacking": ("create clusterroles",)}, "no-right-to-install", id="a user without rights"
        ),
        pytest.param(
            {"crd": None, "unreadable": ("customresourcedefinitions.apiextensions.k8s.io",)},
            "not-looked-at",
            id="a definition that may not be read",
        ),
        pytest.param({"unreadable": ("pods",)}, "not-looked-at", id="what may not be read"),
        pytest.param({"nodes": (node("5.1.21"),)}, "kernel-too-old", id="a kernel before 5.2"),
        pytest.param({"nodes": (node("4.19.0"),)}, "kernel-too-old", id="a kernel 4"),
        pytest.param(
            {"nodes": (node(architecture="s390x"),)}, "architecture", id="another processor"
        ),
        pytest.param(
            {
                "namespaces": (
                    namespace(
                        "name: troth-system, "
                        "labels: {pod-security.kubernetes.io/enforce: restricted}"
                    ),
                )
            },
            "pod-security",
            id="a namespace that admits no node agents",
        ),
        pytest.param(
            {"namespaces": (MESH,), "wanted": frozenset({"shpo"})},
            "no-such-namespace",
            id="a namespace that isn't there",
        ),
    ],
)
def test_what_a_cluster_lacks_is_found(facts: dict[str, Any], code: str) -> None:
    assert codes(judged(**facts)) == [code]


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"version": "v1.31.0-gke.1"}, id="a vendor's Kubernetes 1.31"),
        pytest.param({"version": "v2.0.0"}, id="Kubernetes 2"),
        pytest.param({"nodes": (node("5.2.0-azure"),)}, id="a vendor's kernel 5.2"),
        pytest.param({"nodes": (node("unknown"),)}, id="a kernel of unknown version"),
        pytest.param(
            {"nodes": (node("10.0", architecture="", operatingSystem="windows"),)}, id="Windows"
        ),
        pytest.param(
            {
                "namespaces": (
                    namespace("name: x, labels: {pod-security.kubernetes.io/enforce: restricted}"),
                )
            },
            id="a restricted namespace that isn't troth's",
        ),
    ],
)
def test_what_is_good_enough_is_not_found(facts: dict[str, Any]) -> None:
    assert codes(judged(**facts)) == []


@pytest.mark.parametrize(
    "labels",
    [
        "labels: {troth.dev/mesh: enabled, istio-injection: enabled}",
        "labels: {troth.dev/mesh: enabled, istio.io/rev: stable}",
        "labels: {troth.dev/mesh: enabled, istio.io/dataplane-mode: ambient}",
        "labels: {troth.dev/mesh: enabled}, annotations: {linkerd.io/inject: enabled}",
    ],
)
def test_a_namespace_of_another_mesh_is_found(labels: str) -> None:
    check = judged(namespaces=(namespace(f"name: shop, {labels}"),))
    assert codes(check) == ["other-mesh"]


@pytest.mark.parametrize(
    "text",
    [
        "name: shop, labels: {istio-injection: enabled}",
        "name: shop, labels: {troth.dev/mesh: enabled, istio-injection: disabled}",
        "name: shop, labels: {troth.dev/mesh: disabled, istio.io/dataplane-mode: ambient}",
    ],
)
def test_a_namespace_of_one_mesh_is_left_alone(text: str) -> None:
    assert codes(judged(namespaces=(namespace(text),))) == []


@pytest.mark.parametrize(
    ("spec", "metadata", "code"),
    [
        pytest.param("containers: [{name: istio-proxy}]", "", "other-mesh", id="sidecar"),
        pytest.param("initContainers: [{name: linkerd-proxy}]", "", "other-mesh", id="native"),
        pytest.param(
            "containers: []",
            "annotations: {ambient.istio.io/redirection: enabled}",
            "other-mesh",
            id="ambient",
        ),
        pytest.param(
            "containers: [{ports: [{containerPort: 15007}]}]", "", "port-taken", id="15007"
        ),
        pytest.param(
            "containers: [{ports: [{containerPort: 15001}]}]", "", "port-taken", id="15001"
        ),
    ],
)
def test_a_pod_that_cannot_be_captured_is_found(spec: str, metadata: str, code: str) -> None:
    captured = pod(spec, metadata)
    assert codes(judged(namespaces=(MESH,), pods=(captured,))) == [code]
    assert codes(judged(namespaces=(namespace("name: shop"),), pods=(captured,))) == []


@pytest.mark.parametrize(
    ("spec", "metadata"),
    [
        pytest.param(
            "containers: [{ports: [{containerPort: 15007, protocol: UDP}]}]", "", id="UDP"
        ),
        pytest.param(
            "hostNetwork: true, containers: [{ports: [{containerPort: 15007}]}]", "", id="host"
        ),
        pytest.param(
            "containers: [{name: istio-proxy}]", "labels: {troth.dev/mesh: disabled}", id="kept out"
        ),
    ],
)
def test_a_pod_that_is_not_captured_may_do_as_it_likes(spec: str, metadata: str) -> None:
    assert codes(judged(namespaces=(MESH,), pods=(pod(spec, metadata),))) == []


def test_a_namespace_can_be_looked_at_before_it_is_in_the_mesh() -> None:
    facts: dict[str, Any] = {
        "namespaces": (namespace("name: shop"),),
        "pods": (pod("containers: [{name: istio-proxy}]"),),
    }
    assert codes(judged(**facts)) == []
    assert codes(judged(**facts, wanted=frozenset({"shop"}))) == ["other-mesh"]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(f"{WEB}, ingress: [{{ports: [{{port: 8080}}]}}]", id="a number"),
        pytest.param(f"{WEB}, ingress: [{{ports: [{{port: http}}]}}]", id="a name"),
        pytest.param(f"{WEB}, ingress: [{{ports: [{{port: 8000, endPort: 9000}}]}}]", id="a range"),
        pytest.param(
            f"{WEB}, ingress: [{{ports: [{{port: 15007, protocol: UDP}}, {{port: 80}}]}}]", id="UDP"
        ),
        pytest.param(
            f"{WEB}, policyTypes: [Egress], egress: [{{ports: [{{port: 5432}}]}}]", id="egress"
        ),
        pytest.param(f"{WEB}, egress: [{{ports: [{{port: 5432}}]}}]", id="egress without types"),
        pytest.param(
            f"{WEB}, ingress: [{{from: [{{podSelector: {{}}}}], ports: [{{port: 8080}}]}},"
            " {from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 15007}]}]",
            id="the tunnel from others only",
        ),
    ],
)
def test_a_network_policy_that_keeps_the_tunnel_out_is_found(spec: str) -> None:
    check = judged(namespaces=(MESH,), network_policies=(network_policy(spec),))
    assert codes(check) == ["network-policy-blocks-tunnel"]
    assert check.errors == 1
    elsewhere = (namespace("name: shop"),)
    assert codes(judged(namespaces=elsewhere, network_policies=(network_policy(spec),))) == []


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(f"{WEB}, ingress: []", id="nothing at all is admitted"),
        pytest.param(f"{WEB}, ingress: [{{from: [{{podSelector: {{}}}}]}}]", id="all ports"),
        pytest.param(f"{WEB}, ingress: [{{ports: [{{protocol: TCP}}]}}]", id="all TCP ports"),
        pytest.param(
            f"{WEB}, ingress: [{{ports: [{{port: 8080}}, {{port: 15007}}]}}]", id="the tunnel's"
        ),
        pytest.param(f"{WEB}, ingress: [{{ports: [{{port: 1, endPort: 65535}}]}}]", id="a range"),
        pytest.param(f"{WEB}, ingress: [{{ports: [{{port: 53, protocol: UDP}}]}}]", id="UDP alone"),
        pytest.param(
            f"{WEB}, ingress: [{{from: [{{podSelector: {{}}}}], ports: [{{port: 8080}}]}},"
            " {from: [{podSelector: {}}], ports: [{port: 15007}]}]",
            id="another rule for the same peers",
        ),
        pytest.param(
            f"{WEB}, policyTypes: [Ingress], egress: [{{ports: [{{port: 5432}}]}}]",
            id="an egress rule that doesn't count",
        ),
    ],
)
def test_a_network_policy_that_lets_the_tunnel_in_is_not_found(spec: str) -> None:
    assert codes(judged(namespaces=(MESH,), network_policies=(network_policy(spec),))) == []


@pytest.mark.parametrize(
    ("selector", "blocked"),
    [
        pytest.param("podSelector: {}", False, id="all pods"),
        pytest.param(WEB, False, id="the same pods"),
        pytest.param("podSelector: {matchLabels: {app: other}}", True, id="other pods"),
        pytest.param("podSelector: {matchLabels: {app: web, tier: b}}", True, id="fewer pods"),
    ],
)
def test_another_network_policy_can_let_the_tunnel_in(selector: str, *, blocked: bool) -> None:
    policies = (
        network_policy(f"{WEB}, ingress: [{{ports: [{{port: 8080}}]}}]"),
        network_policy(f"{selector}, ingress: [{{ports: [{{port: 15007}}]}}]", "tunnel"),
    )
    check = judged(namespaces=(MESH,), network_policies=policies)
    assert (codes(check) != []) is blocked


def test_errors_come_before_warnings() -> None:
    check = judged(crd=None, nodes=(node("4.4"),))
    assert [each.severity for each in check.findings] == [Severity.ERROR, Severity.WARNING]
    assert check.errors == 1


def test_a_good_machine_has_nothing_in_the_way() -> None:
    facts = MachineFacts(name="a", kernel="6.1.0", architecture="x86_64")
    assert judge_machine(facts).findings == ()


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        pytest.param({"kernel": "4.4.0"}, "kernel-too-old", id="kernel"),
        pytest.param({"architecture": "riscv64"}, "architecture", id="processor"),
        pytest.param({"missing_tools": ("nft",)}, "tool-missing", id="tool"),
        pytest.param({"capture": "Protocol not supported"}, "no-capture", id="no nftables"),
        pytest.param({"capture": None}, "not-looked-at", id="no namespace"),
        pytest.param({"foreign_redirects": ("x",)}, "foreign-redirect", id="a redirect"),
    ],
)
def test_what_a_machine_lacks_is_found(facts: dict[str, Any], code: str) -> None:
    good = {"name": "a", "kernel": "6.1.0", "architecture": "x86_64"}
    check = judge_machine(MachineFacts(**(good | facts)))
    assert [each.code for each in check.findings] == [code]


RULESET = """\
table inet troth {
	chain outbound {
		tcp flags syn / fin,syn,rst,ack redirect to :15001
	}
}
table ip nat {
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		counter jump OTHER
	}
	chain OTHER {
		meta l4proto tcp counter xt target "REDIRECT"
		tcp dport 80 redirect to :8080
		tcp dport 81 redirect to :8081
	}
}
"""


def test_redirects_of_other_programs_are_seen_and_our_own_are_not() -> None:
    assert foreign_redirects(RULESET) == ("table ip nat, chain OTHER",)
    assert foreign_redirects("") == ()
