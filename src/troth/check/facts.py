"""The input of a check: the API's objects, with the fields that are read."""

from __future__ import annotations

import msgspec

from troth.cluster.installation import ReportedNode
from troth.kube import wire

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"


class NodeInfo(wire.Wire, frozen=True):
    """core/v1 NodeSystemInfo."""

    architecture: str = ""
    kernel_version: str = ""
    operating_system: str = "linux"


class NodeStatusFields(wire.Wire, frozen=True):
    """core/v1 NodeStatus."""

    node_info: NodeInfo = NodeInfo()


class NodeObject(wire.Object, frozen=True):
    """core/v1 Node."""

    status: NodeStatusFields = NodeStatusFields()


class AgentContainer(wire.Wire, frozen=True):
    """core/v1 Container of a node agent."""

    args: list[str] | None = None


class AgentPodSpec(wire.Wire, frozen=True):
    """core/v1 PodSpec of a node agent."""

    containers: list[AgentContainer] | None = None


class AgentPodTemplate(wire.Wire, frozen=True):
    """core/v1 PodTemplateSpec of a node agent."""

    spec: AgentPodSpec = AgentPodSpec()


class AgentsSpec(wire.Wire, frozen=True):
    """apps/v1 DaemonSetSpec of the node agents."""

    template: AgentPodTemplate = AgentPodTemplate()


class AgentsObject(wire.Object, frozen=True):
    """apps/v1 DaemonSet of the node agents."""

    spec: AgentsSpec = AgentsSpec()

    @property
    def has_plugin(self) -> bool:
        """Whether they capture pods before these start."""
        containers = self.spec.template.spec.containers or ()
        return any("--cni" in (container.args or ()) for container in containers)


class LabelSelector(wire.Wire, frozen=True):
    """metav1 LabelSelector; expressions are only compared for equality."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[msgspec.Raw] | None = None

    @property
    def selects_all(self) -> bool:
        """Whether it is empty."""
        return not self.match_labels and not self.match_expressions


class PolicyPort(wire.Wire, frozen=True):
    """networking.k8s.io/v1 NetworkPolicyPort."""

    port: int | str | None = None
    end_port: int | None = None
    protocol: str = "TCP"


class PolicyRule(msgspec.Struct, frozen=True, kw_only=True):
    """networking.k8s.io/v1 NetworkPolicyIngressRule or NetworkPolicyEgressRule."""

    ports: list[PolicyPort] | None = None
    source: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"[]"), name="from")
    destination: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"[]"), name="to")


class NetworkPolicySpec(wire.Wire, frozen=True):
    """networking.k8s.io/v1 NetworkPolicySpec."""

    pod_selector: LabelSelector = LabelSelector()
    ingress: list[PolicyRule] | None = None
    egress: list[PolicyRule] | None = None
    policy_types: list[str] | None = None


class NetworkPolicy(wire.Object, frozen=True):
    """networking.k8s.io/v1 NetworkPolicy."""

    spec: NetworkPolicySpec = NetworkPolicySpec()


class CrdVersion(wire.Wire, frozen=True):
    """apiextensions.k8s.io/v1 CustomResourceDefinitionVersion."""

    name: str
    served: bool = False
    subresources: dict[str, object] | None = None


class CrdSpec(wire.Wire, frozen=True):
    """apiextensions.k8s.io/v1 CustomResourceDefinitionSpec."""

    versions: tuple[CrdVersion, ...] = ()


class Crd(wire.Object, frozen=True):
    """apiextensions.k8s.io/v1 CustomResourceDefinition."""

    spec: CrdSpec = CrdSpec()


class ClusterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a cluster.

    Attributes:
        server: The API server's name.
        version: ``gitVersion`` of ``/version``.
        crd: The definition of PeerAuthentication, or None.
        review_crd: The definition of ConnectionReview, or None.
        lacking: The permissions to install troth that the user lacks, as ``create clusterroles``.
        unreadable: What may not be read, and so was not checked.
        agents: The node agents' DaemonSet, if it may be read.
        reports: Their last reports, if they may be read.
        wanted: Namespaces to check as if they were in the mesh.
        home: The namespace that troth is installed in.
    """

    server: str
    version: str
    crd: Crd | None = None
    review_crd: Crd | None = None
    lacking: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    nodes: tuple[NodeObject, ...] = ()
    namespaces: tuple[wire.Object, ...] = ()
    pods: tuple[wire.PodObject, ...] = ()
    network_policies: tuple[NetworkPolicy, ...] = ()
    agents: tuple[AgentsObject, ...] = ()
    reports: tuple[ReportedNode, ...] = ()
    wanted: frozenset[str] = frozenset()
    home: str = "troth-system"


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a future node.

    Attributes:
        name: Its host name.
        kernel: ``uname -r``.
        architecture: ``uname -m``.
        missing_tools: The missing ones of those that troth runs.
        capture: Why capture rules can't be loaded into a new network namespace; empty if they can,
            None if that couldn't be tried.
        foreign_redirects: Chains of other programs that redirect TCP on the machine itself.
    """

    name: str
    kernel: str
    architecture: str
    missing_tools: tuple[str, ...] = ()
    capture: str | None = ""
    foreign_redirects: tuple[str, ...] = ()
