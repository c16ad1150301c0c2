"""The world as one value: namespaces, pods, services and policies, and what follows from them."""

from __future__ import annotations

from troth.mesh._changeover import Changeover, Wanted
from troth.mesh._connections import UNKNOWN, Connection, Outcome, Party, Reason, Side
from troth.mesh._decisions import (
    ClientDecision,
    ServerDecision,
    client_decision,
    server_decision,
)
from troth.mesh._externals import ExternalPort, external_ports
from troth.mesh._model import (
    CAPTURED_ANNOTATION,
    MESH_LABEL,
    PLAINTEXT_ANNOTATION,
    ContainerPort,
    Endpoint,
    Namespace,
    Pod,
    PodPhase,
    Protocol,
    Service,
    ServicePort,
)
from troth.mesh._ports import ALL_PORTS, NO_PORTS, Ports
from troth.mesh._tally import KEPT, OTHERS, Tally, TallyState, Total
from troth.mesh._target import Target, find_target, is_address, pod_at, preferred, target_key
from troth.mesh._view import Destination, LocalPod, NodeView, node_view, ports_with
from troth.mesh._view_keeper import ViewKeeper
from troth.mesh._world import DEFAULT_ROOT_NAMESPACE, Membership, World, membership

__all__ = [
    "ALL_PORTS",
    "CAPTURED_ANNOTATION",
    "DEFAULT_ROOT_NAMESPACE",
    "KEPT",
    "MESH_LABEL",
    "NO_PORTS",
    "OTHERS",
    "PLAINTEXT_ANNOTATION",
    "UNKNOWN",
    "Changeover",
    "ClientDecision",
    "Connection",
    "ContainerPort",
    "Destination",
    "Endpoint",
    "ExternalPort",
    "LocalPod",
    "Membership",
    "Namespace",
    "NodeView",
    "Outcome",
    "Party",
    "Pod",
    "PodPhase",
    "Ports",
    "Protocol",
    "Reason",
    "ServerDecision",
    "Service",
    "ServicePort",
    "Side",
    "Tally",
    "TallyState",
    "Target",
    "Total",
    "ViewKeeper",
    "Wanted",
    "World",
    "client_decision",
    "external_ports",
    "find_target",
    "is_address",
    "membership",
    "node_view",
    "pod_at",
    "ports_with",
    "preferred",
    "server_decision",
    "target_key",
]
