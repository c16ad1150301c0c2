"""Where the world comes from: Kubernetes manifests on disk, typed, watched, the last good kept."""

from __future__ import annotations

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

__all__ = [
    "ConfigMap",
    "Container",
    "Deployment",
    "EnvFrom",
    "EnvVar",
    "HttpGet",
    "KeyRef",
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
]
