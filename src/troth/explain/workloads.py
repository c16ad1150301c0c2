"""The workloads of some manifests: found by name or labels, and whether they are in the mesh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import msgspec

from troth.errors import InputError, Problem
from troth.mesh.model import MESH_LABEL, Namespace, Protocol
from troth.mesh.world import Membership, membership
from troth.syntax import LABEL_VALUE, NAME, NAMESPACE, label_key_flaw, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import PodTemplate

_MOST_NAMED = 5


class WorkloadIndex:
    """An index of workloads by labels, to find those that a selector matches."""

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
        """The workloads in other namespaces that ``selector`` matches."""
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
    """The ports that a mode can apply to: the mesh leaves UDP and SCTP alone."""
    return tuple(port.number for port in template.ports if port.protocol is Protocol.TCP)


def listed(names: Sequence[str]) -> str:
    """The first names, and the number of others."""
    more = len(names) - _MOST_NAMED
    shown = ", ".join(names[:_MOST_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A workload to explain; one given by labels need not exist.

    Attributes:
        kind: Empty if no object has the labels.
        service_account: None if no object has the labels.
        ports: The TCP ports of its containers.
        host_network: Its pods share the node's network namespace.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    kind: str = ""
    service_account: str | None = None
    ports: tuple[int, ...] = ()
    host_network: bool = False


def find_subject(manifests: Manifests, name: str) -> Subject:
    """The workload called ``name``.

    Labels mean the one workload that has them all, or exactly them. If no workload has them, they
    are assumed to be those of a future one.

    Raises:
        InputError: The name is invalid, no workload has it, or several have.
    """
    namespace, slash, rest = name.partition("/")
    if not slash or NAMESPACE.flaw(namespace) or not rest:
        _refuse(name, "names no workload", "write NAMESPACE/NAME or NAMESPACE/KEY=VALUE,KEY=VALUE")
    index = WorkloadIndex(manifests.templates)
    if "=" not in rest:
        if NAME.flaw(rest):
            _refuse(name, "names no workload", NAME.wanted)
        found = [each for each in index.of_namespace(namespace) if each.name == rest]
        if not found:
            for each in manifests.unknown_workloads:
                if (each.namespace, each.name) == (namespace, rest):
                    why = f"is a {each.kind}, and {each.unknown}"
                    _refuse(name, why, f"name its pods' labels: {namespace}/KEY=VALUE,KEY=VALUE")
            _refuse(name, "is not among the workloads given", _nearest(index, namespace, rest))
    else:
        labels = _labels(name, rest)
        found = list(index.matching(namespace, labels))
        if not found:
            return Subject(namespace=namespace, name=rest, labels=labels)
        found = [each for each in found if each.labels == labels] or found
    if len(found) > 1:
        names = listed([str(each) for each in found])
        _refuse(name, f"may be any of {names}", "name one of them by labels that only it has")
    return _subject(found[0])


def _subject(template: PodTemplate) -> Subject:
    return Subject(
        namespace=template.namespace,
        name=template.name,
        labels=template.labels,
        kind=template.owner_kind or "Pod",
        service_account=template.service_account,
        ports=tcp_ports(template),
        host_network=template.host_network,
    )


def _labels(name: str, text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        flaw = label_key_flaw(key) or LABEL_VALUE.flaw(value)
        if not equals:
            flaw = (f"has {pair!r}, which is no label", "write KEY=VALUE,KEY=VALUE")
        elif key in labels:
            flaw = (f"gives the label {key} twice", "keep one of them")
        if flaw:
            _refuse(name, *flaw)
        labels[key] = value
    return labels


def _nearest(index: WorkloadIndex, namespace: str, name: str) -> str:
    there = sorted({each.name for each in index.of_namespace(namespace)})
    if not there:
        return f"give manifests that have workloads in namespace {namespace}, or name labels"
    near = nearest(f"{namespace}/{name}", (f"{namespace}/{each}" for each in there))
    return near or f"in namespace {namespace} there are {listed(there)}"


def _refuse(name: str, found: str, wanted: str) -> NoReturn:
    raise InputError([Problem(subject=f"workload {name}", path="", found=found, wanted=wanted)])
