"""Where the world comes from: manifests on disk or the Kubernetes API, the last good kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.sources._amend import amend
from troth.sources._cluster_world import ClusterState
from troth.sources._collect import Manifests, collect
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
    from troth.sources._kubernetes import follow
else:

    def __getattr__(name: str) -> object:
        """Load the Kubernetes client only for those who use it: that takes a moment."""
        if name == "follow":
            from troth.sources._kubernetes import follow  # noqa: PLC0415 - see above

            return follow
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "STDIN",
    "ClusterState",
    "ConfigMap",
    "Container",
    "Deployment",
    "Document",
    "EnvFrom",
    "EnvVar",
    "HttpGet",
    "KeyRef",
    "Manifests",
    "PodTemplate",
    "Probe",
    "RestartPolicy",
    "Secret",
    "ServiceAccount",
    "ServicePortSpec",
    "ServiceSpec",
    "Volume",
    "VolumeKind",
    "VolumeMount",
    "Workload",
    "amend",
    "collect",
    "expand",
    "follow",
    "load",
    "merge_last_good",
    "read_documents",
    "runnable_problems",
    "watch",
]
