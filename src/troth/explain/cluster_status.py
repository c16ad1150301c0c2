"""The status of a cluster's mesh, from the API server.

The nodes themselves aren't queried: their agents' reports are in the API server, and so are the
marks of captured pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from cryptography import x509

from troth.cluster.contract import SILENCE, TRUST_BUNDLE, TRUST_BUNDLE_KEY, policy_digest
from troth.errors import InputError, Problem, Severity
from troth.identity.bundle import TrustBundle
from troth.identity.profile import root_fingerprint
from troth.manifests.runnable import consequence
from troth.mesh.model import PodPhase, Protocol
from troth.mesh.world import World
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy, PortMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from troth.cluster.contract import NodeReport
    from troth.cluster.installation import Installation, Lease, ReportedNode
    from troth.identity.spiffe import TrustDomain
    from troth.mesh.model import Pod

_MOST_NAMED = 3


class ControllerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The controller.

    Attributes:
        leader: The leading replica; empty if none leads.
        renewed: When it last renewed its Lease, by its own clock.
        alive: Whether that is recent enough.
    """

    leader: str
    renewed: datetime | None
    alive: bool


class RootStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A root certificate that the mesh trusts.

    Attributes:
        fingerprint: The SHA-256 of its DER.
        expires: When it stops being valid.
        signing: Whether new certificates chain to it.
    """

    fingerprint: str
    subject: str
    expires: datetime
    signing: bool


class TrustBundleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The roots that the mesh trusts.

    Attributes:
        missing_in: Namespaces of the mesh that don't have these roots (yet).
    """

    roots: tuple[RootStatus, ...]
    missing_in: tuple[str, ...]


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has pods of the mesh, or whose agent reports.

    Attributes:
        reported: When its agent last reported, by its own clock; None if it never did.
        alive: Whether that is recent enough.
        enforces_all: Whether its Envoy enforces every stored policy; None if the stored ones aren't
            known.
        captured: How many pods' new connections its Envoy gets, those included that it has to
            release yet; None when it doesn't say.
        plugin: Whether the CNI plugin captures its pods before they start; None if it doesn't say.
        why: What is wrong; empty if nothing is.
    """

    name: str
    reported: datetime | None
    alive: bool
    enforces_all: bool | None
    captured: int | None = None
    plugin: bool | None = None
    why: str


class ClusterPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod in a namespace of the mesh.

    Attributes:
        in_mesh: Whether it should be captured.
        captured: Whether its node's agent says that its traffic goes through Envoy.
        why: Why it is in the mesh or not, and why it isn't captured although it should be.
        identity: Its SPIFFE ID; None outside the mesh.
        mode: Of all ports that ``ports`` doesn't name; None outside the mesh.
    """

    namespace: str
    name: str
    workload: str
    node: str
    addresses: tuple[str, ...]
    phase: PodPhase
    ready: bool
    in_mesh: bool
    captured: bool
    why: str
    identity: str | None = None
    mode: Mode | None = None
    decided_by: DecidedBy | None = None
    ports: Mapping[int, PortMode] = {}


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The mesh of a cluster; ``troth status -o json`` prints exactly this.

    Attributes:
        ready: Nothing is missing, and everything could be read.
        waiting_for: What is missing, in words.
        namespace: The namespace of the controller and the node agents.
        controller: None if it may not be read; so are ``trust_bundle`` and ``nodes``.
        policies: The valid PeerAuthentications, ``NAMESPACE/NAME``, in order.
        problems: Problems of objects, and missing permissions.
    """

    schema: Literal["troth/cluster-status/v1"] = "troth/cluster-status/v1"
    ready: bool
    waiting_for: tuple[str, ...]
    trust_domain: str
    root_namespace: str
    namespace: str
    controller: ControllerStatus | None
    trust_bundle: TrustBundleStatus | None
    nodes: tuple[NodeStatus, ...] | None
    policies: tuple[str, ...]
    pods: tuple[ClusterPod, ...]
    problems: tuple[Problem, ...]


def cluster_status(
    found: Installation,
    *,
    home: str,
    root_namespace: str,
    trust_domain: TrustDomain,
    now: datetime,
    doubts: Iterable[Problem] = (),
) -> ClusterStatus:
    """Judge an installation.

    Args:
        found: What the API server knows.
        home: The namespace of the controller and the node agents.
        root_namespace: Where mesh-wide policies live.
        trust_domain: The trust domain of all identities.
        now: The time, by the API server's clock if that is known.
        doubts: Policies that don't do what they seem to (`troth.explain.validate`).
    """
    world = World(
        trust_domain=trust_domain,
        root_namespace=root_namespace,
        namespaces=found.namespaces,
        pods={pod.uid: pod for pod in found.pods},
        policies=found.policies,
    )
    shown = [pod for pod in sorted(found.pods, key=str) if _is_shown(world, pod)]
    nodes = None if found.nodes is None else tuple(_nodes(found, found.nodes, world, shown, now))
    reasons = _Reasons(world, nodes, [each.report for each in found.nodes or () if each.report])
    pods = tuple(reasons.pods(shown))
    controller = None if found.nodes is None else _controller(found.leader, now)
    bundle, bad_roots = _trust_bundle(found, home, trust_domain)
    problems = (*found.problems, *bad_roots, *doubts, *_unenforced(found), *_lenient(found))
    waiting_for = (
        *_missing_control(home, controller, bundle, now),
        *(f"node {node.name}: {node.why}" for node in nodes or () if node.why),
        *reasons.waiting_for,
    )
    return ClusterStatus(
        ready=not waiting_for and not any(each.severity is Severity.ERROR for each in problems),
        waiting_for=waiting_for,
        trust_domain=str(trust_domain),
        root_namespace=root_namespace,
        namespace=home,
        controller=controller,
        trust_bundle=bundle,
        nodes=nodes,
        policies=tuple(sorted(policy.key for policy in found.policies)),
        pods=pods,
        problems=problems,
    )


def _unenforced(found: Installation) -> Iterator[Problem]:
    """Warnings about Istio's objects in namespaces of this mesh, where they have no effect."""
    for kind, keys in sorted(found.unenforced.items()):
        here = [
            key
            for key in keys
            if (namespace := found.namespaces.get(key.partition("/")[0])) and namespace.in_mesh
        ]
        if here:
            named = ", ".join(here[:_MOST_NAMED])
            more = f" and {len(here) - _MOST_NAMED} more" if here[_MOST_NAMED:] else ""
            text = f"isn't enforced in namespaces of the mesh ({named}{more}): {consequence(kind)}"
            wanted = "remove it, or leave those namespaces to Istio"
            yield Problem.warning(kind, "", text, wanted)


def _lenient(found: Installation) -> Iterator[Problem]:
    """Nodes on which others may pass for the kubelet."""
    for each in sorted(found.nodes or (), key=lambda each: each.node):
        if each.report is not None and each.report.leniency:
            text = "lets all processes of root reach the ports that it probes in STRICT pods"
            wanted = "let the kubelet listen on its port, in a cgroup (v2) of its own"
            yield Problem.warning(
                f"Node {each.node}", "", f"{text}: {each.report.leniency}", wanted
            )


def _is_shown(world: World, pod: Pod) -> bool:
    namespace = world.namespaces.get(pod.namespace)
    in_question = pod.captured or (namespace is not None and namespace.in_mesh)
    return in_question and not pod.phase.is_final


class _Reasons:
    """Why pods are in the mesh and captured, or not.

    Attributes:
        waiting_for: What is wrong with pods.
    """

    def __init__(
        self,
        world: World,
        nodes: Iterable[NodeStatus] | None,
        reports: Iterable[NodeReport] = (),
    ) -> None:
        self.waiting_for: list[str] = []
        self._world = world
        self._nodes = None if nodes is None else {node.name: node for node in nodes}
        self._index = PolicyIndex(world.policies, world.root_namespace)
        self._troubles: dict[str, str] = {}
        for report in reports:
            self._troubles |= {pod: each.why for pod, each in report.uncaptured.items()}
            for pod, each in report.unmarked.items():
                self._troubles[pod] = f"it is, but can't be marked as captured: {each.why}"

    def pods(self, pods: Iterable[Pod]) -> Iterator[ClusterPod]:
        """Judge each of them."""
        for pod in pods:
            member = self._world.membership(pod)
            why = member.why
            if member.in_mesh and not pod.captured:
                why = self._not_captured(pod)
                if pod.addresses and not pod.terminating:
                    self.waiting_for.append(f"the capture of pod {pod}: {why}")
            elif pod.captured and not member.in_mesh and not pod.terminating:
                why = f"{member.why}, but its node's agent has not released it yet"
                self.waiting_for.append(f"the release of pod {pod}: {member.why}")
            yield self._pod(pod, in_mesh=member.in_mesh, why=why)

    def _not_captured(self, pod: Pod) -> str:
        if not pod.node:
            return "it is not bound to a node yet"
        if not pod.addresses:
            return "it has no address yet"
        node = (self._nodes or {}).get(pod.node)
        if str(pod) in self._troubles and (node is None or node.alive):
            return self._troubles[str(pod)]
        if node is not None and node.why:
            return f"node {pod.node}: {node.why}"
        return f"the agent of node {pod.node} has not captured it yet"

    def _pod(self, pod: Pod, *, in_mesh: bool, why: str) -> ClusterPod:
        fields: dict[str, Any] = {}
        if in_mesh:
            numbers = [port.number for port in pod.ports if port.protocol is Protocol.TCP]
            decision = self._index.decide(pod.namespace, pod.labels, numbers)
            fields = {
                "identity": str(pod.spiffe_id(self._world.trust_domain)),
                "mode": decision.mode,
                "decided_by": decision.decided_by,
                "ports": decision.port_modes,
            }
        return ClusterPod(
            namespace=pod.namespace,
            name=pod.name,
            workload=pod.workload,
            node=pod.node,
            addresses=pod.addresses,
            phase=pod.phase,
            ready=pod.ready,
            in_mesh=in_mesh,
            captured=pod.captured,
            why=why,
            **fields,
        )


def _nodes(
    found: Installation,
    reported: Iterable[ReportedNode],
    world: World,
    shown: Sequence[Pod],
    now: datetime,
) -> Iterator[NodeStatus]:
    """The nodes whose agents report, and those that have pods to capture."""
    stored = found.stored_policies
    digest = None if stored is None else policy_digest(stored)
    by_name = {each.node: each for each in reported}
    needed = {pod.node for pod in shown if pod.node and world.membership(pod).in_mesh}
    staying = Counter(
        pod.node
        for pod in shown
        if pod.addresses and (pod.captured or world.membership(pod).in_mesh)
    )
    for name in sorted({*by_name, *needed}):
        each = by_name.get(name)
        if each is None:
            yield NodeStatus(
                name=name, reported=None, alive=False, enforces_all=False, why="no agent reports"
            )
            continue
        alive = each.lease.is_current(now)
        current = None if digest is None else bool(each.report and each.report.policies == digest)
        captured = each.report.captured if each.report else None
        leaving = 0 if captured is None or found.namespace else captured - staying[name]
        yield NodeStatus(
            name=name,
            reported=each.lease.renew_time,
            alive=alive,
            enforces_all=current,
            captured=captured,
            plugin=each.report.plugin if each.report else None,
            why=_trouble(each.report, alive=alive, current=current, leaving=leaving),
        )


def _trouble(report: NodeReport | None, *, alive: bool, current: bool | None, leaving: int) -> str:
    if report is None:
        return "its agent's report can't be read, so it may be of another version of troth"
    if not alive:
        return SILENCE
    if report.trouble:
        return report.trouble
    return _unfinished(report, current=current, leaving=leaving)


def _unfinished(report: NodeReport, *, current: bool | None, leaving: int) -> str:
    if current is False:
        return "not every policy is in force there yet"
    if report.joining:
        names = ", ".join(sorted(report.joining))
        return f"pods of {names} have just joined the mesh, and still take plaintext"
    if leaving > 0:
        return f"pods that are out of the mesh are still to be released: {leaving}"
    return ""


def _controller(lease: Lease | None, now: datetime) -> ControllerStatus:
    if lease is None or not lease.holder_identity:
        return ControllerStatus(leader="", renewed=None, alive=False)
    return ControllerStatus(
        leader=lease.holder_identity, renewed=lease.renew_time, alive=lease.is_current(now)
    )


def _trust_bundle(
    found: Installation, home: str, trust_domain: TrustDomain
) -> tuple[TrustBundleStatus | None, tuple[Problem, ...]]:
    if found.bundles is None:
        return None, ()
    own = found.bundles.get(home)
    meshed = sorted(name for name, namespace in found.namespaces.items() if namespace.in_mesh)
    if own is None:
        return TrustBundleStatus(roots=(), missing_in=tuple(meshed)), ()
    missing = tuple(
        name for name in meshed if name not in found.bundles or found.bundles[name].pem != own.pem
    )
    subject = f"ConfigMap {home}/{TRUST_BUNDLE}"
    try:
        bundle = TrustBundle.parse(
            trust_domain, own.pem.encode(), subject=subject, path=f"data[{TRUST_BUNDLE_KEY}]"
        )
    except InputError as error:
        return TrustBundleStatus(roots=(), missing_in=missing), error.problems
    roots = tuple(_root(pem, own.signing_root) for pem in bundle.certificates)
    return TrustBundleStatus(roots=roots, missing_in=missing), ()


def _root(pem: bytes, signing_root: str) -> RootStatus:
    certificate = x509.load_pem_x509_certificate(pem)
    fingerprint = root_fingerprint(pem)
    return RootStatus(
        fingerprint=fingerprint,
        subject=certificate.subject.rfc4514_string(),
        expires=certificate.not_valid_after_utc,
        signing=fingerprint == signing_root,
    )


def _missing_control(
    home: str,
    controller: ControllerStatus | None,
    bundle: TrustBundleStatus | None,
    now: datetime,
) -> Iterator[str]:
    if controller is not None and not controller.leader:
        yield f"a controller: none leads in namespace {home}"
    elif controller is not None and not controller.alive:
        yield f"a controller: {controller.leader} led last, and is silent"
    if bundle is None:
        return
    if not bundle.roots:
        yield f"roots to believe in: ConfigMap {home}/{TRUST_BUNDLE} has none"
        return
    for root in bundle.roots:
        if root.expires <= now:
            yield f"a new root: {root.subject} ({root.fingerprint[:16]}) has expired"
    for name in bundle.missing_in:
        yield f"the roots in namespace {name}"
