"""Where the world comes from: manifests on disk or the Kubernetes API, the last good kept."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from troth.sources._aliases import CLUSTER_DOMAIN, aliases, service_of
from troth.sources._amend import amend, as_applied, as_stored
from troth.sources._cluster_world import (
    ClusterNode,
    ClusterService,
    ClusterState,
    EndpointSlice,
    Family,
    SliceEndpoint,
    resolve_services,
)
from troth.sources._collect import DEFAULT_NAMESPACE, Manifests, collect
from troth.sources._custom import KNATIVE_REQUESTS, KNATIVE_SERVICE, CustomWorkload
from troth.sources._entrances import ENTRANCES, Backend, Entrance
from troth.sources._expand import expand
from troth.sources._files import STDIN, load
from troth.sources._kinds import KINDS
from troth.sources._last_good import merge_last_good
from troth.sources._runnable import not_run, not_served, runnable_problems, without_effect
from troth.sources._security import Security
from troth.sources._service_problems import service_problems
from troth.sources._watch import watch
from troth.sources._without_effect import consequence
from troth.sources._workloads import (
    ConfigMap,
    Container,
    Deployment,
    DnsConfig,
    DnsPolicy,
    EndpointPort,
    EndpointSliceSpec,
    EndpointSpec,
    EndpointsSpec,
    EnvFrom,
    EnvVar,
    Hook,
    HostAlias,
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
    from troth.sources._kubernetes import NAMESPACES, PODS, follow
else:
    _NEED_A_CLIENT = {
        "ClusterManifests": "_cluster_manifests",
        "Installation": "_installation",
        "Lease": "_installation",
        "NAMESPACES": "_kubernetes",
        "PODS": "_kubernetes",
        "ReportedNode": "_installation",
        "TrustBundleMap": "_installation",
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
    "CLUSTER_DOMAIN",
    "DEFAULT_NAMESPACE",
    "ENTRANCES",
    "KINDS",
    "KNATIVE_REQUESTS",
    "KNATIVE_SERVICE",
    "NAMESPACES",
    "PODS",
    "STDIN",
    "Backend",
    "ClusterManifests",
    "ClusterNode",
    "ClusterService",
    "ClusterState",
    "ConfigMap",
    "Container",
    "CustomWorkload",
    "Deployment",
    "DnsConfig",
    "DnsPolicy",
    "Document",
    "EndpointPort",
    "EndpointSlice",
    "EndpointSliceSpec",
    "EndpointSpec",
    "EndpointsSpec",
    "Entrance",
    "EnvFrom",
    "EnvVar",
    "Family",
    "Hook",
    "HostAlias",
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
    "Security",
    "ServiceAccount",
    "ServicePortSpec",
    "ServiceSpec",
    "SliceEndpoint",
    "TrustBundleMap",
    "Volume",
    "VolumeKind",
    "VolumeMount",
    "Workload",
    "aliases",
    "amend",
    "as_applied",
    "as_stored",
    "collect",
    "consequence",
    "expand",
    "follow",
    "load",
    "merge_last_good",
    "not_run",
    "not_served",
    "read_cluster",
    "read_documents",
    "read_installation",
    "resolve_services",
    "runnable_problems",
    "service_of",
    "service_problems",
    "watch",
    "without_effect",
]
