"""How a mesh in a cluster is, as a value with a stable JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from troth.errors import Problem
from troth.explain.explain import PortMode
from troth.mesh.model import PodPhase
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy


class ControllerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The controller.

    Attributes:
        leader: The replica that leads; empty when none does.
        renewed: When it last said so, by its own clock.
        alive: Whether that is recent enough.
    """

    leader: str
    renewed: datetime | None
    alive: bool


class RootStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A root certificate that the mesh believes in.

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
    """The roots that the mesh believes in.

    Attributes:
        missing_in: Namespaces of the mesh that don't have these roots (yet).
    """

    roots: tuple[RootStatus, ...]
    missing_in: tuple[str, ...]


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has pods of the mesh, or whose agent reports.

    Attributes:
        reported: When its agent reported last, by its own clock; None if it never did.
        alive: Whether that is recent enough.
        enforces_all: Whether its Envoy has put every stored policy in force; None when it isn't
            known which are stored.
        captured: How many pods' new connections its Envoy gets, those included that it has to
            release yet; None when it doesn't say.
        plugin: Whether the CNI plugin has its pods captured before they start; None when it doesn't
            say.
        why: What is amiss; empty when nothing is.
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
        in_mesh: Whether it is meant to be captured.
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
        ready: Nothing is missing, and everything there is could be read.
        waiting_for: What is missing, in words.
        namespace: Of the controller and the node agents.
        controller: None when it may not be read, as is ``trust_bundle`` and ``nodes``.
        policies: The PeerAuthentications that are valid, ``NAMESPACE/NAME``, in order.
        problems: What is wrong with objects, and what there is no right to read.
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
