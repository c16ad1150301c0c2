"""Where the world comes from: Kubernetes manifests on disk, typed, watched, the last good kept."""

from __future__ import annotations

from troth.sources._amend import amend
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

__all__ = [
    "STDIN",
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
    "load",
    "merge_last_good",
    "read_documents",
    "runnable_problems",
    "watch",
]
