"""What stands between a valid pod and running it as local processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.errors import Problem, Severity
from troth.manifests.custom import CustomWorkload
from troth.manifests.without_effect import consequence
from troth.manifests.workloads import VolumeKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import PodTemplate, Workload


def runnable_problems(template: PodTemplate) -> tuple[Problem, ...]:
    """Say what a local runner can't do for ``template``.

    Errors are containers it can't start; warnings are fields that have no effect.
    """
    return tuple(_problems(template))


def not_run(manifests: Manifests) -> Iterator[Problem]:
    """Warn of workloads of which no local pods are made."""
    makers: tuple[Workload | CustomWorkload, ...] = (
        *manifests.workloads.values(),
        *manifests.custom_workloads.values(),
    )
    for workload in makers:
        if isinstance(workload, CustomWorkload) and workload.hidden:
            yield Problem(
                subject=f"{workload}",
                path="",
                found=f"holds {workload.hidden[0]}, which has no effect here",
                wanted="give what it holds in a file of its own",
                severity=Severity.WARNING,
                location=workload.location,
            )
            continue
        yield Problem(
            subject=f"{workload.kind} {workload.namespace}/{workload.name}",
            path="kind",
            found=f"is {workload.kind}, of which no pods are run here",
            wanted="write a Deployment or a Pod",
            severity=Severity.WARNING,
            location=workload.location,
        )


def not_served(manifests: Manifests) -> Iterator[Problem]:
    """Warn of fields of Services that a local mesh doesn't act on."""
    for service in manifests.services.values():
        subject = f"Service {service.namespace}/{service.name}"
        if service.type in {"NodePort", "LoadBalancer"}:
            yield Problem(
                subject=subject,
                path="spec.type",
                found=f"is {service.type}, which is as good as ClusterIP here",
                wanted="reach it from pods, or by troth exec",
                severity=Severity.WARNING,
                location=service.location,
            )
        for field in service.unsupported:
            yield Problem(
                subject=subject,
                path=f"spec.{field}",
                found="has no effect in a local mesh",
                wanted="test it in a cluster",
                severity=Severity.WARNING,
                location=service.location,
            )


def without_effect(manifests: Manifests) -> Iterator[Problem]:
    """Warn of all that means something in a cluster and nothing to ``troth up``."""
    for template in (*manifests.pods.values(), *_templates(manifests)):
        for problem in runnable_problems(template):
            if problem.severity is Severity.WARNING:
                yield problem
    yield from not_run(manifests)
    yield from not_served(manifests)
    for kind, count in manifests.ignored:
        if meaning := consequence(kind):
            objects = "1 object" if count == 1 else f"{count} objects"
            yield Problem(
                subject=kind,
                path="",
                found=f"has no effect on local pods ({objects}): {meaning}",
                wanted="test it in a cluster",
                severity=Severity.WARNING,
            )


def _templates(manifests: Manifests) -> Iterator[PodTemplate]:
    return (deployment.template for deployment in manifests.deployments.values())


def _problems(template: PodTemplate) -> Iterator[Problem]:
    def problem(path: str, found: str, wanted: str, severity: Severity) -> Problem:
        return Problem(
            subject=str(template),
            path=path,
            found=found,
            wanted=wanted,
            severity=severity,
            location=template.location,
        )

    groups = (("initContainers", template.init_containers), ("containers", template.containers))
    for field, containers in groups:
        for index, container in enumerate(containers):
            path = f"{field}[{index}]"
            if not container.command:
                yield problem(
                    path,
                    f"the container {container.name} has no command",
                    "set command: troth runs containers as local processes and pulls no images",
                    Severity.ERROR,
                )
            for unsupported in container.unsupported:
                yield problem(
                    f"{path}.{unsupported}",
                    "has no effect on a local pod",
                    "test it in a cluster",
                    Severity.WARNING,
                )
    mounted = {
        mount.name
        for _, containers in groups
        for container in containers
        for mount in container.volume_mounts
    }
    known = {volume.name: volume for volume in template.volumes}
    for name in sorted(mounted):
        volume = known.get(name)
        if volume is None or volume.kind is VolumeKind.OTHER:
            what = volume.source if volume else "a claim template"
            yield problem(
                "volumes",
                f"the volume {name} is {what}, which a local pod can't mount",
                "use configMap, secret, emptyDir or hostPath",
                Severity.WARNING,
            )
    for unsupported in template.unsupported:
        yield problem(
            unsupported,
            "has no effect on a local pod",
            "test it in a cluster",
            Severity.WARNING,
        )
    if template.host_network:
        yield problem(
            "hostNetwork",
            "has no effect on a local pod",
            "it gets a network namespace of its own, outside the mesh as in a cluster",
            Severity.WARNING,
        )
