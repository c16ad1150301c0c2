"""The workloads of a set of manifests: found by labels, and whether they are in the mesh."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from troth.mesh.model import MESH_LABEL, Namespace, Protocol
from troth.mesh.world import Membership, membership

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from troth.sources.collect import Manifests
    from troth.sources.workloads import PodTemplate

_MOST_NAMED = 5


class WorkloadIndex:
    """Finds the workloads that a selector matches, without looking at all of them."""

    def __init__(self, templates: Iterable[PodTemplate]) -> None:
        self._by_namespace: dict[str, list[PodTemplate]] = defaultdict(list)
        self._by_label: dict[tuple[str, str, str], list[PodTemplate]] = defaultdict(list)
        for template in templates:
            self._by_namespace[template.namespace].append(template)
            for key, value in template.labels.items():
                self._by_label[template.namespace, key, value].append(template)

    def of_namespace(self, namespace: str) -> list[PodTemplate]:
        """All workloads of a namespace."""
        return self._by_namespace.get(namespace, [])

    def matching(self, namespace: str, selector: Mapping[str, str]) -> Iterator[PodTemplate]:
        """The workloads of a namespace that have all labels of ``selector``."""
        candidates = [self._by_label.get((namespace, *label), []) for label in selector.items()]
        for template in min(candidates, key=len, default=self.of_namespace(namespace)):
            if selector.items() <= template.labels.items():
                yield template

    def elsewhere(self, namespace: str, selector: Mapping[str, str]) -> list[PodTemplate]:
        """What ``selector`` matches in other namespaces than this."""
        others = [each for each in self._by_namespace if each != namespace] if selector else []
        return [found for other in others for found in self.matching(other, selector)]

    def values_of(self, namespace: str, key: str) -> list[str]:
        """The values that the label ``key`` has on a namespace's workloads."""
        return sorted(
            {each.labels[key] for each in self.of_namespace(namespace) if key in each.labels}
        )


def is_described(manifests: Manifests, namespace: str) -> bool:
    """Whether a Namespace object is given, rather than only named by others."""
    return f"Namespace {namespace}" in manifests.origins


def belongs(
    manifests: Manifests, namespace: str, labels: Mapping[str, str], *, host_network: bool = False
) -> Membership:
    """Whether a workload is in the mesh by its manifests."""
    found = manifests.namespaces.get(namespace, Namespace(name=namespace))
    result = membership(found, labels, host_network=host_network)
    if not result.in_mesh and not is_described(manifests, namespace):
        why = f"no Namespace given labels {namespace} with {MESH_LABEL}: enabled"
        return Membership(in_mesh=False, why=why)
    return result


def tcp_ports(template: PodTemplate) -> tuple[int, ...]:
    """The ports that a mode can hold for: the mesh leaves UDP and SCTP alone."""
    return tuple(port.number for port in template.ports if port.protocol is Protocol.TCP)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are beside them."""
    more = len(names) - _MOST_NAMED
    shown = ", ".join(names[:_MOST_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown
