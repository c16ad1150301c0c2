"""What ``troth up`` doesn't run, or runs otherwise than a cluster would.

Errors stand between a valid pod and local processes. Warnings are of what changes how a pod behaves
in a cluster and has no effect on a local one. Fields that only say where a pod is placed, or in
which order, are no part of it: on one machine they make no difference.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from troth.errors import Problem, Severity
from troth.manifests import api
from troth.manifests.api import Use
from troth.manifests.workloads import VolumeKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.fields import Fields
    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import PodTemplate

_INDEX = re.compile(r"\[[^\]]*\]")

_IN_CLUSTER = "test it in a cluster"

_WHOLE = frozenset({"fileKeyRef", "podFailurePolicy", "successPolicy", "serviceAccountToken"})
"""Fields that are told as one, and not each of what they hold."""

_DEFAULTS: dict[str, object] = {"mountPropagation": "None"}

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
    "RequestAuthentication.security.istio.io": "no token is looked at",
    "ResourceQuota": "nothing is counted",
    "ServiceEntry.networking.istio.io": "no name or address comes of it",
    "Sidecar.networking.istio.io": "pods reach all that there is",
    "TCPRoute.gateway.networking.k8s.io": "connections go where they would without it",
    "TLSRoute.gateway.networking.k8s.io": "connections go where they would without it",
    "VirtualService.networking.istio.io": "connections go where they would without it",
    "WorkloadEntry.networking.istio.io": "nothing leads there",
}


def runnable_problems(template: PodTemplate) -> tuple[Problem, ...]:
    """Say what a local runner can't do for ``template``.

    Errors are containers it can't start; warnings are fields that have no effect.
    """
    return tuple(_problems(template))


def not_run(manifests: Manifests) -> Iterator[Problem]:
    """Warn of workloads of which no local pods are made, and of what has no effect on others."""
    for workload in (*manifests.deployments.values(), *manifests.workloads.values()):
        for field in workload.unsupported:
            found = "has no effect on local pods"
            place = workload.location
            yield Problem.warning(str(workload), field, found, _IN_CLUSTER, location=place)
    for custom in manifests.custom_workloads.values():
        if custom.hidden:
            found = f"holds {custom.hidden[0]}, which has no effect here"
            wanted = "give what it holds in a file of its own"
            yield Problem.warning(str(custom), "", found, wanted, location=custom.location)
        else:
            yield Problem.warning(
                f"{custom.kind} {custom.namespace}/{custom.name}",
                "kind",
                f"is {custom.kind}, of which no pods are run here",
                "write a Deployment or a Pod",
                location=custom.location,
            )


def not_served(manifests: Manifests) -> Iterator[Problem]:
    """Warn of fields of Services that a local mesh doesn't act on."""
    for service in manifests.services.values():
        subject = f"Service {service.namespace}/{service.name}"
        if service.type in {"NodePort", "LoadBalancer"}:
            found = f"is {service.type}, which is as good as ClusterIP here"
            wanted = "reach it from pods, or by troth exec"
            yield Problem.warning(subject, "spec.type", found, wanted, location=service.location)
        for field in service.unsupported:
            yield Problem.warning(
                subject,
                f"spec.{field}",
                "has no effect in a local mesh",
                _IN_CLUSTER,
                location=service.location,
            )


def without_effect(manifests: Manifests) -> Iterator[Problem]:
    """Warn of all that means something in a cluster and nothing to ``troth up``."""
    controllers = (*manifests.deployments.values(), *manifests.workloads.values())
    for template in (*manifests.pods.values(), *(each.template for each in controllers)):
        for problem in runnable_problems(template):
            if problem.severity is Severity.WARNING:
                yield problem
    yield from not_run(manifests)
    yield from not_served(manifests)
    for kind, count in manifests.ignored:
        if meaning := consequence(kind):
            objects = "1 object" if count == 1 else f"{count} objects"
            found = f"has no effect on local pods ({objects}): {meaning}"
            yield Problem.warning(kind, "", found, _IN_CLUSTER)


def _problems(template: PodTemplate) -> Iterator[Problem]:
    def warning(path: str, found: str, wanted: str) -> Problem:
        return Problem.warning(str(template), path, found, wanted, location=template.location)

    def unused_field(path: str) -> Problem:
        return warning(path, "has no effect on a local pod", _IN_CLUSTER)

    groups = (("initContainers", template.init_containers), ("containers", template.containers))
    for field, containers in groups:
        for index, container in enumerate(containers):
            path = f"{field}[{index}]"
            if not container.command:
                yield Problem(
                    subject=str(template),
                    path=path,
                    found=f"the container {container.name} has no command",
                    wanted="set command, or give one by troth up --command "
                    f"{template.namespace}/{template.name}/{container.name}=COMMAND: no image is "
                    "pulled",
                    location=template.location,
                )
            if beyond := container.security.added_in_vain:
                found = f"adds {', '.join(beyond)}, which no local container has"
                yield warning(f"{path}.securityContext.capabilities.add", found, _IN_CLUSTER)
    for name, what in _unmountable(template):
        found = f"the volume {name} is {what}, which a local pod can't mount"
        wanted = "use configMap, secret, projected, emptyDir, hostPath or persistentVolumeClaim"
        yield warning("volumes", found, wanted)
    for unsupported in template.unsupported:
        yield unused_field(unsupported)
    if template.host_network:
        wanted = "it gets a network namespace of its own, outside the mesh as in a cluster"
        yield warning("hostNetwork", "has no effect on a local pod", wanted)


def _unmountable(template: PodTemplate) -> Iterator[tuple[str, str]]:
    """The volumes that are mounted and can't be here, and what they are."""
    containers = (*template.init_containers, *template.containers)
    mounted = {mount.name for each in containers for mount in each.volume_mounts}
    for volume in sorted(template.volumes, key=lambda each: each.name):
        if volume.kind is VolumeKind.OTHER and volume.name in mounted:
            yield volume.name, volume.source


def unused(fields: Fields, kind: str, prefix: str = "") -> Iterator[str]:
    """The fields below an API type that ask for something and have no effect, by their paths.

    One that is false, zero or empty asks for what a local pod does anyway.

    Args:
        fields: Where they are.
        kind: The type, as of `troth.manifests.api.TYPES`.
        prefix: What each path begins with.
    """
    of = api.TYPES[kind]
    for name in fields:
        path, value = f"{prefix}{name}", fields.value(name)
        if inner := of.types.get(name):
            if isinstance(value, list):
                for index, each in enumerate(fields.each(name)):
                    yield from unused(each, inner, f"{path}[{index}].")
            elif value:
                yield from unused(fields.fields(name), inner, f"{path}.")
        elif of.uses.get(name) is not Use.UNDONE or value == _DEFAULTS.get(name):
            continue
        elif isinstance(value, dict) and name not in _WHOLE:
            yield from (f"{path}.{key}" for key, held in value.items() if held)
        elif value:
            yield path


def told_together(problems: Iterable[Problem]) -> Iterator[tuple[Severity, str]]:
    """Each problem in a line; warnings that say the same of several objects in one."""
    alike: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        if problem.severity is Severity.ERROR:
            yield problem.severity, str(problem)
        else:
            path = _INDEX.sub("[]", problem.path)
            alike.setdefault((path, problem.found, problem.wanted), []).append(problem)
    for first, *others in alike.values():
        more = f" (and {len(others)} more like it)" if others else ""
        yield first.severity, f"{first}{more}"


def consequence(kind: str) -> str:
    """What ``troth up`` leaves undone for a kind (``KIND.GROUP``); empty if that is nothing."""
    return _KINDS.get(kind, "")


def ignored_notice(kind: str) -> str:
    """What to say of a kind (``KIND.GROUP``) for which a local mesh does nothing."""
    if meaning := consequence(kind):
        return f"has no effect here: {kind}: {meaning}"
    return f"ignored, as troth has no use for it: {kind}"
