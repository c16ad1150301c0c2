"""What in a cluster, or on a machine, keeps troth from working: pure.

That includes NetworkPolicies that admit an app's port but not the tunnel's, through which its
connections come.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec

from troth.check.facts import DEFINITIONS
from troth.errors import Severity
from troth.mesh.model import MESH_LABEL, Protocol
from troth.mesh.ports import OWN_PORTS, TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from troth.check.facts import (
        ClusterFacts,
        MachineFacts,
        NetworkPolicy,
        NodeObject,
        PolicyPort,
        PolicyRule,
    )
    from troth.kube import wire

OLDEST_KUBERNETES = (1, 31)
"""The first version in which an agent can watch only its own node's ConnectionReviews (KEP-4358).
Node names in pods' tokens (KEP-4193) and admission policies need it, too."""

OLDEST_KERNEL = (5, 2)
"""The first version whose nftables has NAT in tables for both IP versions."""

ARCHITECTURES = frozenset({"amd64", "arm64"})
"""Those that Envoy is built for."""

_MACHINES = frozenset({"x86_64", "aarch64"})
"""The same, in the names of ``uname -m``."""

_POD_SECURITY = "pod-security.kubernetes.io/enforce"
_SIDECARS = {"istio-proxy": "Istio", "istio-init": "Istio", "linkerd-proxy": "Linkerd"}

_GAP = (
    "A pod takes plaintext for some seconds after its start, and for as long as its node has no "
    "agent, whatever the policies say."
)

_ANY = frozenset({b"", b"[]", b"null"})


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that keeps troth from working.

    Attributes:
        severity: An error keeps troth, or pods of the mesh, from working; a warning may.
        code: The kind of finding, for programs.
        where: The object, ``KIND NAMESPACE/NAME``, or another name of the place.
        what: The fact, in one clause.
        why: Why it matters, in one sentence.
        remedy: What to do, in one sentence.
    """

    severity: Severity
    code: str
    where: str
    what: str
    why: str
    remedy: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result; ``troth check -o json`` prints exactly this.

    Attributes:
        subject: What was checked: the API server, or the machine.
        version: Kubernetes' version, or the kernel's.
        findings: Errors first.
    """

    subject: str
    version: str
    findings: tuple[Finding, ...]
    schema: Literal["troth/check/v1"] = "troth/check/v1"

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(each.severity is Severity.ERROR for each in self.findings)


def error(code: str, where: str, what: str, *, why: str, remedy: str) -> Finding:
    """A finding that keeps something from working."""
    return Finding(
        severity=Severity.ERROR, code=code, where=where, what=what, why=why, remedy=remedy
    )


def warning(code: str, where: str, what: str, *, why: str, remedy: str) -> Finding:
    """A finding that may keep something from working."""
    return Finding(
        severity=Severity.WARNING, code=code, where=where, what=what, why=why, remedy=remedy
    )


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """Errors first, otherwise in the given order."""
    return tuple(sorted(findings, key=lambda each: each.severity is not Severity.ERROR))


def judge_cluster(facts: ClusterFacts) -> Check:
    """Judge a cluster, before or after troth is installed there."""
    findings = [
        *_version(facts),
        *_definitions(facts),
        *_rights(facts),
        *(found for node in facts.nodes for found in _node(node)),
        *_home(facts),
        *_agents(facts),
        *judge_namespaces(facts),
        *_unreadable(facts),
    ]
    return Check(subject=facts.server, version=facts.version, findings=in_order(findings))


def judge_namespaces(facts: ClusterFacts) -> tuple[Finding, ...]:
    """What keeps the mesh's pods, and those of the wanted namespaces, from working."""
    in_mesh = _in_mesh(facts)
    policies = (each for each in facts.network_policies if each.metadata.namespace in in_mesh)
    return (*_namespaces(facts), *_pods(facts), *blocked_tunnels(policies))


def kernel_is_old(release: str) -> bool:
    """Whether a kernel is too old for the NAT that troth uses; unknown formats pass."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) < OLDEST_KERNEL


def _version(facts: ClusterFacts) -> Iterator[Finding]:
    found = re.match(r"v?(\d+)\.(\d+)", facts.version)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_KUBERNETES:
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        yield error(
            "kubernetes-too-old",
            facts.server,
            f"runs Kubernetes {facts.version or 'of an unknown version'}",
            why="A node agent watches the questions to its own node by a field of theirs, which "
            f"can be had from Kubernetes {oldest} on.",
            remedy=f"Upgrade to {oldest} or later.",
        )


def _rights(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.lacking:
        yield warning(
            "no-right-to-install",
            "your user",
            f"may not {', '.join(facts.lacking)}",
            why="kubectl apply -k deploy does all of that.",
            remedy="Have troth installed by an administrator of the cluster.",
        )


def _node(node: NodeObject) -> Iterator[Finding]:
    where, info = f"Node {node.metadata.name}", node.status.node_info
    if info.operating_system != "linux":
        return  # the DaemonSet selects Linux nodes
    if kernel_is_old(info.kernel_version):
        yield error(
            "kernel-too-old",
            where,
            f"runs Linux {info.kernel_version}",
            why="Its pods can't be captured: nftables has NAT for both IP versions in one table "
            "from Linux 5.2 on.",
            remedy="Upgrade the node's kernel.",
        )
    if info.architecture and info.architecture not in ARCHITECTURES:
        yield error(
            "architecture",
            where,
            f"is {info.architecture}",
            why="There is no Envoy for it.",
            remedy="Keep pods of the mesh on other nodes.",
        )


def _home(facts: ClusterFacts) -> Iterator[Finding]:
    for namespace in facts.namespaces:
        level = (namespace.metadata.labels or {}).get(_POD_SECURITY, "privileged")
        if namespace.metadata.name == facts.home and level != "privileged":
            yield error(
                "pod-security",
                f"Namespace {facts.home}",
                f"admits only pods of level {level}",
                why="Node agents enter other pods' network namespaces, so none can be made there.",
                remedy=f"kubectl label namespace {facts.home} --overwrite "
                f"{_POD_SECURITY}=privileged",
            )


def _agents(facts: ClusterFacts) -> Iterator[Finding]:
    for agents in facts.agents:
        if not agents.has_plugin:
            yield warning(
                "plaintext-at-start",
                f"DaemonSet {agents.metadata.key}",
                "runs without the CNI plugin",
                why=_GAP,
                remedy="Install troth with node.cni.enabled=true (docs/install.md, Capture pods "
                "before they start).",
            )
            return
    for each in facts.reports:
        if each.report is not None and each.report.plugin is False:
            yield warning(
                "plaintext-at-start",
                f"Node {each.node}",
                f"has no CNI plugin ({each.report.trouble or 'its agent is an earlier one'})",
                why=_GAP,
                remedy="See to it that the agent can install it (docs/install.md, Capture pods "
                "before they start).",
            )


def _in_mesh(facts: ClusterFacts) -> frozenset[str]:
    labelled = (
        each.metadata.name
        for each in facts.namespaces
        if (each.metadata.labels or {}).get(MESH_LABEL) == "enabled"
    )
    return frozenset(labelled) | facts.wanted


def _namespaces(facts: ClusterFacts) -> Iterator[Finding]:
    names = {each.metadata.name for each in facts.namespaces}
    for missing in sorted(facts.wanted - names) if names else ():
        yield error(
            "no-such-namespace",
            f"Namespace {missing}",
            "isn't there",
            why="Nothing can be said of its pods.",
            remedy="Correct the name.",
        )
    for namespace in facts.namespaces:
        other = _injected(namespace.metadata)
        if namespace.metadata.name in _in_mesh(facts) and other:
            mesh, label = other
            yield error(
                "other-mesh",
                f"Namespace {namespace.metadata.name}",
                f"is in {mesh}'s mesh, too ({label})",
                why="Both would redirect the connections of its pods, and they would fail.",
                remedy=f"Take it out of one: remove {label}, or the label {MESH_LABEL}.",
            )


def _pods(facts: ClusterFacts) -> Iterator[Finding]:
    for pod in facts.pods:
        labels = pod.metadata.labels or {}
        if (
            pod.metadata.namespace in _in_mesh(facts)
            and labels.get(MESH_LABEL) != "disabled"
            and not pod.spec.host_network
        ):
            yield from _pod(pod)


def _pod(pod: wire.PodObject) -> Iterator[Finding]:
    where = f"Pod {pod.metadata.key}"
    containers = (*(pod.spec.init_containers or ()), *(pod.spec.containers or ()))
    other = next((_SIDECARS[each.name] for each in containers if each.name in _SIDECARS), "")
    if not other and (pod.metadata.annotations or {}).get("ambient.istio.io/redirection"):
        other = "Istio"
    if other:
        yield error(
            "other-mesh",
            where,
            f"is captured by {other}",
            why="Both would redirect its connections, and they would fail.",
            remedy=f"Take it out of {other}'s mesh and create it again, or keep it out of troth's "
            f"by the label {MESH_LABEL}=disabled.",
        )
    declared = {
        port.container_port
        for container in containers
        for port in container.ports or ()
        if port.protocol in (None, Protocol.TCP)
    }
    for port in sorted(declared.intersection(OWN_PORTS)):
        yield error(
            "port-taken",
            where,
            f"declares TCP port {port}",
            why="Envoy listens on that port in every captured pod, so it can't be captured.",
            remedy="Have the app listen on another port.",
        )


def _injected(metadata: wire.Metadata) -> tuple[str, str] | None:
    """Which other mesh a namespace is in, and the label that says so."""
    labels, annotations = metadata.labels or {}, metadata.annotations or {}
    if labels.get("istio-injection") == "enabled":
        return "Istio", "istio-injection=enabled"
    if "istio.io/rev" in labels and labels.get("istio-injection") != "disabled":
        return "Istio", f"istio.io/rev={labels['istio.io/rev']}"
    if labels.get("istio.io/dataplane-mode") == "ambient":
        return "Istio", "istio.io/dataplane-mode=ambient"
    if annotations.get("linkerd.io/inject") in {"enabled", "ingress"}:
        return "Linkerd", f"linkerd.io/inject={annotations['linkerd.io/inject']}"
    return None


def _unreadable(facts: ClusterFacts) -> Iterator[Finding]:
    for resource in facts.unreadable:
        yield warning(
            "not-looked-at",
            resource,
            "may not be listed by your user",
            why="What is amiss with them isn't seen.",
            remedy="Run the check as somebody who may list them in all namespaces.",
        )


def _definitions(facts: ClusterFacts) -> Iterator[Finding]:
    """Judge the definitions of troth's kinds and of Istio's that it reads."""
    yield from _of_policies(facts)
    yield from _of_reviews(facts)


def _of_policies(facts: ClusterFacts) -> Iterator[Finding]:
    where = "CustomResourceDefinition peerauthentications.security.istio.io"
    if facts.crd is None:
        if DEFINITIONS in facts.unreadable:
            return
        yield warning(
            "no-definition",
            where,
            "isn't there",
            why="Without it nobody can make a policy, and everything is PERMISSIVE.",
            remedy="Run kubectl create -f deploy/crds/peerauthentications.yaml (or install "
            "Istio's own).",
        )
        return
    served = {each.name: each for each in facts.crd.spec.versions if each.served}
    if not served.keys() & {"v1", "v1beta1"}:
        yield error(
            "definition-unusable",
            where,
            f"serves {', '.join(sorted(served)) or 'no version'}",
            why="troth reads v1 and v1beta1, and so would see no policy at all.",
            remedy="Upgrade Istio's definitions.",
        )
    elif not any("status" in (each.subresources or {}) for each in served.values()):
        yield warning(
            "definition-without-status",
            where,
            "has no status subresource",
            why="The controller can't say whether a policy is accepted and enforced.",
            remedy="Upgrade Istio's definitions.",
        )


def _of_reviews(facts: ClusterFacts) -> Iterator[Finding]:
    installed = any(each.metadata.name == facts.home for each in facts.namespaces)
    if facts.review_crd is None and installed and DEFINITIONS not in facts.unreadable:
        yield warning(
            "no-definition",
            "CustomResourceDefinition connectionreviews.troth.dev",
            "isn't there",
            why="Without it node agents can't be asked: troth why, audit, trace, events.",
            remedy="Run kubectl apply -f deploy/crds/connectionreviews.yaml.",
        )


def blocked_tunnels(policies: Iterable[NetworkPolicy]) -> Iterator[Finding]:
    """Judge the NetworkPolicies of namespaces that are in the mesh.

    A rule that limits the TCP ports has to admit the tunnel's port, too, unless another one for at
    least the same pods and peers does.
    """
    by_namespace: dict[str, list[NetworkPolicy]] = {}
    for policy in policies:
        by_namespace.setdefault(policy.metadata.namespace, []).append(policy)
    for together in by_namespace.values():
        for policy in together:
            yield from _blocked(policy, together)


def _blocked(policy: NetworkPolicy, together: Sequence[NetworkPolicy]) -> Iterator[Finding]:
    for direction in ("ingress", "egress"):
        for index, rule in enumerate(_rules(policy, direction)):
            ports = [port for port in rule.ports or () if port.protocol == "TCP"]
            if not ports or any(map(_admits_tunnel, ports)):
                continue
            if any(
                _admits(other, rule, direction)
                for peer in together
                if _covers(peer, policy)
                for other in _rules(peer, direction)
            ):
                continue
            yield _finding(policy, direction, index, ports)


def _finding(
    policy: NetworkPolicy, direction: str, index: int, ports: Sequence[PolicyPort]
) -> Finding:
    admitted = ", ".join(str(port.port) for port in ports)
    to_or_from = "to" if direction == "ingress" else "from"
    return error(
        "network-policy-blocks-tunnel",
        f"NetworkPolicy {policy.metadata.key}",
        f"admits TCP port {admitted} ({direction} rule {index}), but not {TUNNEL_PORT}",
        why=f"Connections {to_or_from} its pods from and to other pods of the mesh go by the "
        f"tunnel, port {TUNNEL_PORT}, and would fail.",
        remedy=f"Add {{protocol: TCP, port: {TUNNEL_PORT}}} to spec.{direction}[{index}].ports.",
    )


def _rules(policy: NetworkPolicy, direction: str) -> Sequence[PolicyRule]:
    types = policy.spec.policy_types or ["Ingress"]
    if direction == "ingress":
        return (policy.spec.ingress or ()) if "Ingress" in types else ()
    is_meant = "Egress" in types or policy.spec.policy_types is None
    return (policy.spec.egress or ()) if is_meant else ()


def _covers(other: NetworkPolicy, policy: NetworkPolicy) -> bool:
    """Whether ``other`` provably selects at least the pods of ``policy``."""
    theirs, ours = other.spec.pod_selector, policy.spec.pod_selector
    if theirs.selects_all:
        return True
    if theirs.match_expressions:
        return theirs == ours
    return (theirs.match_labels or {}).items() <= (ours.match_labels or {}).items()


def _admits(other: PolicyRule, rule: PolicyRule, direction: str) -> bool:
    """Whether ``other`` admits the tunnel for at least the peers of ``rule``."""
    theirs, ours = _peers(other, direction), _peers(rule, direction)
    admits = other.ports is None or not other.ports or any(map(_admits_tunnel, other.ports))
    return admits and (theirs in _ANY or theirs == ours)


def _peers(rule: PolicyRule, direction: str) -> bytes:
    return bytes(rule.source if direction == "ingress" else rule.destination)


def _admits_tunnel(port: PolicyPort) -> bool:
    if port.protocol != "TCP":
        return False
    if port.port is None:
        return True
    if isinstance(port.port, str):  # a container's port, which can't be the tunnel's
        return False
    return port.port <= TUNNEL_PORT <= (port.end_port or port.port)


def judge_machine(facts: MachineFacts) -> Check:
    """Judge a machine that will be a node, or run a local mesh."""
    return Check(subject=facts.name, version=facts.kernel, findings=in_order(list(_machine(facts))))


def _machine(facts: MachineFacts) -> Iterator[Finding]:
    where = facts.name
    if kernel_is_old(facts.kernel):
        yield error(
            "kernel-too-old",
            where,
            f"runs Linux {facts.kernel}",
            why="nftables has NAT for both IP versions in one table from Linux 5.2 on.",
            remedy="Upgrade the kernel.",
        )
    if facts.architecture not in _MACHINES:
        yield error(
            "architecture",
            where,
            f"is {facts.architecture}",
            why="There is no Envoy for it.",
            remedy="Use a machine with an x86-64 or ARM64 processor.",
        )
    for tool in facts.missing_tools:
        yield error(
            "tool-missing",
            where,
            f"has no {tool}",
            why="Pods are captured with it.",
            remedy="Install nftables and util-linux (troth's image has them).",
        )
    if facts.capture:
        yield error(
            "no-capture",
            where,
            f"takes no capture rules: {facts.capture}",
            why="So no pod can be captured.",
            remedy="Use a kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_REDIR, "
            "CONFIG_NFT_FIB_INET, CONFIG_NFT_LIMIT, CONFIG_NFT_REJECT_INET, CONFIG_NFT_SOCKET and "
            "CONFIG_NF_CONNTRACK, and allow the modules to be loaded.",
        )
    if facts.capture is None:
        yield warning(
            "not-looked-at",
            where,
            "lets you make no network namespace",
            why="So it wasn't tried whether pods can be captured.",
            remedy="Run the check as root, or allow user namespaces.",
        )
    for chain in facts.foreign_redirects:
        yield warning(
            "foreign-redirect",
            where,
            f"redirects TCP in {chain}",
            why="Another program leads connections elsewhere; should it do so in pods, too, both "
            "would redirect the same ones.",
            remedy="See which program made the chain, and keep it from pods of the mesh.",
        )
