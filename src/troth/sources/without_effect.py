"""What changes how a pod behaves in a cluster and has no effect on one that ``troth up`` runs.

Fields that only say where a pod is placed, or in which order, are no part of it: on one machine
they make no difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.sources.reader import Fields

_OF_BOTH = ("appArmorProfile", "runAsNonRoot", "seLinuxOptions", "seccompProfile", "windowsOptions")
"""Fields of a securityContext, a pod's or a container's."""

POD = (
    "activeDeadlineSeconds",
    "ephemeralContainers",
    "hostnameOverride",
    "readinessGates",
    "resourceClaims",
    "resources.limits",
    "runtimeClassName",
    "schedulingGates",
    *(f"securityContext.{name}" for name in (*_OF_BOTH, "fsGroupChangePolicy", "sysctls")),
    "securityContext.supplementalGroupsPolicy",
)
"""Fields of a pod's spec; of one with a mapping each field of that is told by itself."""

CONTAINER = (
    "livenessProbe",
    "resources.limits",
    "restartPolicy",
    "restartPolicyRules",
    *(f"securityContext.{name}" for name in (*_OF_BOTH, "capabilities", "privileged")),
    "securityContext.allowPrivilegeEscalation",
    "securityContext.procMount",
    "startupProbe",
    "stdin",
    "tty",
    "volumeDevices",
)
"""Fields of a container."""

SERVICE = ("externalIPs", "loadBalancerIP", "loadBalancerSourceRanges")
"""Fields of a Service's spec."""

_WHOLE = frozenset({"livenessProbe", "startupProbe"})

_KINDS = {
    "AuthorizationPolicy.security.istio.io": "nobody is refused for what it says",
    "DestinationRule.networking.istio.io": "connections are made as ever",
    "HorizontalPodAutoscaler.autoscaling": "replicas are as many as their Deployment says",
    "Ingress.networking.k8s.io": "nothing listens for it",
    "LimitRange": "containers have no limits",
    "NetworkPolicy.networking.k8s.io": "pods reach each other whatever it says",
    "PersistentVolumeClaim": "there is no storage behind it",
    "RequestAuthentication.security.istio.io": "no token is looked at",
    "ResourceQuota": "nothing is counted",
    "ServiceEntry.networking.istio.io": "no name or address comes of it",
    "VirtualService.networking.istio.io": "connections go where they would without it",
}


def given(fields: Fields, names: Iterable[str]) -> Iterator[str]:
    """Those of the named fields that ask for something, by their paths below ``fields``.

    One that is false, zero or empty asks for what a local pod does anyway.
    """
    for name in names:
        parent, _, own = name.rpartition(".")
        holder = fields.fields(parent) if parent else fields
        value = holder.value(own)
        if isinstance(value, dict) and own not in _WHOLE:
            yield from (f"{name}.{key}" for key, inner in value.items() if inner)
        elif value:
            yield name


def consequence(kind: str) -> str:
    """What ``troth up`` leaves undone for a kind (``KIND.GROUP``); empty if that is nothing."""
    return _KINDS.get(kind, "")
