"""Where the world comes from: manifests on disk or the Kubernetes API, the last good kept."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from troth.sources._amend import amend, as_applied
from troth.sources._cluster_world import ClusterState
from troth.sources._collect import DEFAULT_NAMESPACE, Manifests, collect
from troth.sources._expand import expand
from troth.sources._files import STDIN, load
from troth.sources._last_good import merge_last_good
from troth.sources._runnable import runnable_problems
from troth.sources._watch import watch
from troth.sources._workloads import (
    ConfigMap,
    Container,
    Deployment,
    EnvFrom,
    EnvVar,
    HttpGet,
    KeyRef,
    PodTemplate,
    Probe,
    RestartPolicy,
    Secret,
    ServiceAccount,
    ServicePortSpec,
    ServiceSpec,
    Volume,
    VolumeKind,
    VolumeMount,
    Workload,
)
from troth.sources._yaml import Document, read_documents

if TYPE_CHECKING:
    from troth.sources._cluster_manifests import ClusterManifests, read_cluster
    from troth.sources._installation import (
        Installation,
        Lease,
        ReportedNode,
        TrustBundleMap,
        read_installation,
    )
    from troth.sources._kubeconfig import cluster_config
    from troth.sources._kubernetes import follow
    from troth.sources._readings import Unreadable
else:
    _NEED_A_CLIENT = {
        "ClusterManifests": "_cluster_manifests",
        "Installation": "_installation",
        "Lease": "_installation",
        "ReportedNode": "_installation",
        "TrustBundleMap": "_installation",
        "Unreadable": "_readings",
        "cluster_config": "_kubeconfig",
        "follow": "_kubernetes",
        "read_cluster": "_cluster_manifests",
        "read_installation": "_installation",
    }

    def __getattr__(name: str) -> object:
        """Load the Kubernetes client only for those who use it: that takes a moment."""
        if name in _NEED_A_CLIENT:
            return getattr(importlib.import_module(f"{__name__}.{_NEED_A_CLIENT[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DEFAULT_NAMESPACE",
    "STDIN",
    "ClusterManifests",
    "ClusterState",
    "ConfigMap",
    "Container",
    "Deployment",
    "Document",
    "EnvFrom",
    "EnvVar",
    "HttpGet",
    "Installation",
    "KeyRef",
    "Lease",
    "Manifests",
    "PodTemplate",
    "Probe",
    "ReportedNode",
    "RestartPolicy",
    "Secret",
    "ServiceAccount",
    "ServicePortSpec",
    "ServiceSpec",
    "TrustBundleMap",
    "Unreadable",
    "Volume",
    "VolumeKind",
    "VolumeMount",
    "Workload",
    "amend",
    "as_applied",
    "cluster_config",
    "collect",
    "expand",
    "follow",
    "load",
    "merge_last_good",
    "read_cluster",
    "read_documents",
    "read_installation",
    "runnable_problems",
    "watch",
]
