"""Finding what connections name: pods by workload or address, services by virtual IP."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.mesh.model import Pod, Service
    from troth.mesh.world import World
    from troth.traffic.tally import Total

_OF_ONE_RELEASE = frozenset(
    {
        "app.kubernetes.io/version",
        "controller-revision-hash",
        "helm.sh/chart",
        "pod-template-hash",
        "rollouts-pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
    }
)
"""Labels that the next rollout or release of a workload has otherwise, or each pod."""


def stable_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels by which a policy can select a workload's pods for good."""
    return {key: value for key, value in labels.items() if key not in _OF_ONE_RELEASE}


class NameIndex:
    """The names of one world, looked up without going through all of it each time."""

    def __init__(self, world: World) -> None:
        self._services = {
            address: service
            for service in world.services.values()
            for address in service.cluster_ips
        }
        self._pods: dict[str, Pod] = {}
        for pod in world.pods.values():
            for name in (pod.workload, *pod.addresses):
                self._pods.setdefault(name, pod)

    def pod(self, name: str) -> Pod | None:
        """One pod of a workload (``NAMESPACE/NAME``), or the pod that has the address."""
        return self._pods.get(name)

    def service(self, total: Total) -> Service | None:
        """The service whose virtual IP was dialled."""
        return self._services.get(total.newest.destination.address)

    def destination(self, total: Total) -> str:
        """The destination, by its service's name where the client dialled a virtual IP."""
        service = self.service(total)
        return str(service) if service else total.destination
