"""Answers about a set of manifests: is it right, what holds for a workload, what would a change do.

Everything here is pure: `troth.sources.Manifests` in, values with a stable JSON form out. Each
report names its own form in ``schema``; docs/json.md describes them.
"""

from __future__ import annotations

from troth.explain._audit import audit
from troth.explain._audit_report import (
    Audit,
    Client,
    LeftOut,
    Pair,
    PortAudit,
    PortState,
    Proposal,
    WorkloadAudit,
)
from troth.explain._cluster_report import (
    ClusterPod,
    ClusterStatus,
    ControllerStatus,
    NodeStatus,
    RootStatus,
    TrustBundleStatus,
)
from troth.explain._cluster_status import cluster_status
from troth.explain._explain import Derivation, Explanation, PortMode, WorkloadIdentity, explain
from troth.explain._front_doors import Caller, FrontDoor, FrontDoors
from troth.explain._noted import Noted, Unanswered, note
from troth.explain._observed import Plaintext, noted_in_plaintext, seen_in_plaintext
from troth.explain._plan import plan
from troth.explain._plan_report import (
    Affected,
    Breakage,
    Change,
    Plan,
    PortChange,
    UnknownWorkload,
    WorkloadName,
)
from troth.explain._remedies import Explainer
from troth.explain._validate import Validation, validate
from troth.explain._why import Conflict, NotCaptured, Refusal, Why, named, why, with_conflicts

__all__ = [
    "Affected",
    "Audit",
    "Breakage",
    "Caller",
    "Change",
    "Client",
    "ClusterPod",
    "ClusterStatus",
    "Conflict",
    "ControllerStatus",
    "Derivation",
    "Explainer",
    "Explanation",
    "FrontDoor",
    "FrontDoors",
    "LeftOut",
    "NodeStatus",
    "NotCaptured",
    "Noted",
    "Pair",
    "Plaintext",
    "Plan",
    "PortAudit",
    "PortChange",
    "PortMode",
    "PortState",
    "Proposal",
    "Refusal",
    "RootStatus",
    "TrustBundleStatus",
    "Unanswered",
    "UnknownWorkload",
    "Validation",
    "Why",
    "WorkloadAudit",
    "WorkloadIdentity",
    "WorkloadName",
    "audit",
    "cluster_status",
    "explain",
    "named",
    "note",
    "noted_in_plaintext",
    "plan",
    "seen_in_plaintext",
    "validate",
    "why",
    "with_conflicts",
]
