"""What changes how a pod behaves in a cluster and has no effect on one that ``troth up`` runs.

Fields that only say where a pod is placed, or in which order, are no part of it: on one machine
they make no difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.manifests.reader import Fields

_OF_BOTH = ("appArmorProfile", "runAsNonRoot", "seLinuxOptions", "seccompProfile", "windowsOptions")
"""Fields of a securityContext, a pod's or a container's."""

POD = (
    "activeDeadlineSeconds",
    "ephemeralContainers",
    "hostIPC",
    "hostPID",
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
    "lifecycle.stopSignal",
    "livenessProbe",
    "readinessProbe.grpc",
    *(
        f"{hook}.{action}.host"
        for hook in ("readinessProbe", "lifecycle.postStart", "lifecycle.preStop")
        for action in ("httpGet", "tcpSocket")
    ),
    "resources.claims",
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

CONTAINER_PORT: tuple[str, ...] = ("hostPort",)
"""Fields of one of a container's ports."""

MOUNT: tuple[str, ...] = ("mountPropagation", "subPathExpr")
"""Fields of one of a container's mounts."""

VOLUME = (
    "configMap.defaultMode",
    "emptyDir.sizeLimit",
    "secret.defaultMode",
)
"""Fields of one of a pod's volumes."""

_WHOLE = frozenset({"grpc", "livenessProbe", "startupProbe"})
_DEFAULTS: dict[str, object] = {"defaultMode": 0o644, "mountPropagation": "None"}

_KINDS = {
    "AuthorizationPolicy.security.istio.io": "nobody is refused for what it says",
    "DestinationRule.networking.istio.io": "connections are made as ever",
    "EnvoyFilter.networking.istio.io": "Envoy is told nothing of it",
    "GRPCRoute.gateway.networking.k8s.io": "connections go where they would without it",
    "Gateway.gateway.networking.k8s.io": "nothing listens for it",
    "Gateway.networking.istio.io": "nothing listens for it",
    "HTTPRoute.gateway.networking.k8s.io": "connections go where they would without it",
    "HorizontalPodAutoscaler.autoscaling": "replicas are as many as their Deployment says",
    "Ingress.networking.k8s.io": "nothing listens for it",
    "LimitRange": "containers have no limits",
    "NetworkPolicy.networking.k8s.io": "pods reach each other whatever it says",
    "PersistentVolumeClaim": "there is no storage behind it",
    "RequestAuthentication.security.istio.io": "no token is looked at",
    "ResourceQuota": "nothing is counted",
    "ServiceEntry.networking.istio.io": "no name or address comes of it",
    "Sidecar.networking.istio.io": "pods reach all that there is",
    "TCPRoute.gateway.networking.k8s.io": "connections go where they would without it",
    "TLSRoute.gateway.networking.k8s.io": "connections go where they would without it",
    "VirtualService.networking.istio.io": "connections go where they would without it",
    "WorkloadEntry.networking.istio.io": "nothing leads there",
}


def given(fields: Fields, names: Iterable[str]) -> Iterator[str]:
    """Those of the named fields that ask for something, by their paths below ``fields``.

    One that is false, zero or empty asks for what a local pod does anyway.
    """
    for name in names:
        *parents, own = name.split(".")
        holder = fields
        for parent in parents:
            holder = holder.fields(parent)
        value = holder.value(own)
        if value == _DEFAULTS.get(own):
            continue
        if isinstance(value, dict) and own not in _WHOLE:
            yield from (f"{name}.{key}" for key, inner in value.items() if inner)
        elif value:
            yield name


def consequence(kind: str) -> str:
    """What ``troth up`` leaves undone for a kind (``KIND.GROUP``); empty if that is nothing."""
    return _KINDS.get(kind, "")


def ignored_notice(kind: str) -> str:
    """What to say of a kind (``KIND.GROUP``) for which a local mesh does nothing."""
    if meaning := consequence(kind):
        return f"has no effect here: {kind}: {meaning}"
    return f"ignored, as troth has no use for it: {kind}"
