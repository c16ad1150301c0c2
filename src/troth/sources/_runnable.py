"""What stands between a valid pod and running it as local processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.errors import Problem, Severity
from troth.sources._workloads import VolumeKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.sources._workloads import PodTemplate


def runnable_problems(template: PodTemplate) -> tuple[Problem, ...]:
    """Say what a local runner can't do for ``template``.

    Errors are containers it can't start; warnings are fields that have no effect.
    """
    return tuple(_problems(template))


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
    if template.host_network:
        yield problem(
            "hostNetwork",
            "has no effect on a local pod",
            "it gets a network namespace of its own, outside the mesh as in a cluster",
            Severity.WARNING,
        )
