"""The world as one value: namespaces, pods, services and policies, and what follows from them."""

from __future__ import annotations

from troth.mesh._model import (
    MESH_LABEL,
    ContainerPort,
    Endpoint,
    Namespace,
    Pod,
    Protocol,
    Service,
    ServicePort,
)

__all__ = [
    "MESH_LABEL",
    "ContainerPort",
    "Endpoint",
    "Namespace",
    "Pod",
    "Protocol",
    "Service",
    "ServicePort",
]
