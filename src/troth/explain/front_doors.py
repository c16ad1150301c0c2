"""Clients that STRICT would refuse, above all at ports that are reachable from outside every mesh.

Such clients come through nodes, gateways or the API server. They have no identity, so STRICT
refuses them. Manifests only tell that they may come.
"""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.manifests.custom import KNATIVE_REQUESTS, KNATIVE_SERVICE
from troth.manifests.entrances import ENTRANCES, stream_backends
from troth.mesh.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from troth.manifests.collect import Manifests
    from troth.manifests.entrances import Backend
    from troth.manifests.workloads import (
        EndpointSliceSpec,
        PodTemplate,
        ServicePortSpec,
        ServiceSpec,
    )
    from troth.mesh.model import ContainerPort


class Breakage(StrEnum):
    """Whether clients would be refused that get through today; the first that is true."""

    SEEN = "seen"
    """Some were seen that would be."""
    POSSIBLE = "possible"
    """Nobody was seen, or nobody has looked; but there are clients that may call."""
    UNKNOWN = "unknown"
    """None is known, and something that couldn't be read may be one, or be called by one."""
    NONE = "none"
    """There is nobody who would be."""


class Caller(StrEnum):
    """The clients of a front door."""

    ANYBODY = "clients outside the cluster"
    GATEWAY = "a gateway or ingress controller"
    API_SERVER = "the API server"


class FrontDoor(msgspec.Struct, frozen=True, kw_only=True):
    """Why clients without an identity may reach a port.

    Attributes:
        kind: ``NodePort``, ``LoadBalancer``, ``externalIPs``, ``hostPort``, or the kind of ``by``.
        by: The object that routes them there, ``KIND NAMESPACE/NAME``.
        clients: Who they are.
    """

    kind: str
    by: str
    clients: Caller

    def __str__(self) -> str:
        return self.by if self.by.startswith(f"{self.kind} ") else f"{self.by} ({self.kind})"


class _Way(NamedTuple):
    """From a front door to the pods behind it; the target is a port's number or name.

    A way to the pods of an ``owner`` leads to no others that are known to have another one. One
    that is ``vague`` may lead to whatever has the port, or declares none.
    """

    door: FrontDoor
    selector: Mapping[str, str]
    target: int | str
    owner: str = ""
    vague: bool = False

    def leads_to(self, labels: Mapping[str, str], owner: str) -> bool:
        """Whether it leads to pods of these labels; one to a pod without any, to no others."""
        if not self.selector.items() <= labels.items():
            return False
        return self.owner == owner if self.owner and owner else bool(self.selector or not labels)


def worst(verdicts: Iterable[Breakage]) -> Breakage:
    """The worst of several verdicts."""
    return min(verdicts, key=list(Breakage).index, default=Breakage.NONE)


class FrontDoors:
    """The front doors in manifests, indexed by the pods behind them."""

    def __init__(self, manifests: Manifests) -> None:
        self._ways: dict[str, list[_Way]] = defaultdict(list)
        self._owners = {(each.namespace, _owner(each)) for each in manifests.templates}
        self._pods = _Pods(manifests.templates)
        self._slices: dict[str, list[EndpointSliceSpec]] = defaultdict(list)
        for each in manifests.slices:
            if each.service and not each.by_controller:
                self._slices[f"{each.namespace}/{each.service}"].append(each)
        self._add_services(manifests)
        self._add_entrances(manifests)
        self._add_streams(manifests)
        self._add_pods(manifests)

    def of(
        self,
        namespace: str,
        labels: Mapping[str, str],
        ports: Iterable[ContainerPort],
        *,
        owner: str = "",
    ) -> dict[int, tuple[FrontDoor, ...]]:
        """The front doors of pods, by port.

        Args:
            namespace: The pods'.
            labels: The pods'.
            ports: The ports that their containers declare.
            owner: The name of their owner, or of a bare pod; empty if unknown.
        """
        if (namespace, owner) not in self._owners:
            owner = ""  # what the manifests call otherwise, or don't have
        tcp = [port for port in ports if port.protocol is Protocol.TCP]
        names = {port.name: port.number for port in tcp}
        numbers = {port.number for port in tcp}
        found: dict[int, dict[FrontDoor, None]] = defaultdict(dict)
        for way in self._ways.get(namespace, ()):
            target = names.get(way.target) if isinstance(way.target, str) else way.target
            declared = not numbers or target in numbers
            if target and (declared if way.vague else way.leads_to(labels, owner)):
                found[target][way.door] = None
        return {port: tuple(doors) for port, doors in sorted(found.items())}

    def _add_services(self, manifests: Manifests) -> None:
        for service in manifests.services.values():
            for kind in _exposed_as(service):
                by = f"Service {service.namespace}/{service.name}"
                door = FrontDoor(kind=kind, by=by, clients=Caller.ANYBODY)
                self._lead(door, service, service.ports)

    def _add_entrances(self, manifests: Manifests) -> None:
        for entrance in manifests.entrances.values():
            at_api = ENTRANCES[entrance.kind].is_for_api_server
            clients = Caller.API_SERVER if at_api else Caller.GATEWAY
            kind = entrance.kind.partition(".")[0]
            by = str(entrance).replace(entrance.kind, kind, 1)
            door = FrontDoor(kind=kind, by=by, clients=clients)
            for backend in entrance.backends:
                self._lead_to(manifests, door, backend)

    def _add_streams(self, manifests: Manifests) -> None:
        for each in manifests.config_maps.values():
            by = f"ConfigMap {each.namespace}/{each.name}"
            door = FrontDoor(kind="ConfigMap", by=by, clients=Caller.GATEWAY)
            for backend in stream_backends(each.data):
                self._lead_to(manifests, door, backend)

    def _add_pods(self, manifests: Manifests) -> None:
        for template in manifests.templates:
            ways = self._ways[template.namespace]
            for port in template.host_ports:
                door = FrontDoor(kind="hostPort", by=str(template), clients=Caller.ANYBODY)
                ways.append(_Way(door, template.labels, port, _owner(template)))
            if template.owner_kind == KNATIVE_SERVICE:
                by = f"{KNATIVE_SERVICE} {template.namespace}/{template.owner}"
                door = FrontDoor(kind=KNATIVE_SERVICE, by=by, clients=Caller.GATEWAY)
                ways += [
                    _Way(door, template.labels, port.number, _owner(template))
                    for port in template.ports
                    if port.number in KNATIVE_REQUESTS
                ]

    def _lead_to(self, manifests: Manifests, door: FrontDoor, backend: Backend) -> None:
        service = manifests.services.get(f"{backend.namespace}/{backend.service}")
        if service:
            self._lead(door, service, _chosen(service, backend))

    def _lead(
        self, door: FrontDoor, service: ServiceSpec, ports: Iterable[ServicePortSpec]
    ) -> None:
        if service.type == "ExternalName":
            return
        slices = self._slices.get(f"{service.namespace}/{service.name}", ())
        ways = self._ways[service.namespace]
        for port in ports:
            if port.protocol is not Protocol.TCP:
                continue
            if service.selector:
                ways.append(_Way(door, service.selector, port.target))
            elif not slices:
                ways.append(_Way(door, {}, port.target, vague=True))
            for each in slices:
                self._lead_by(door, each, port)

    def _lead_by(self, door: FrontDoor, given: EndpointSliceSpec, port: ServicePortSpec) -> None:
        """Lead to a slice's pods; to any of its namespace where an address doesn't tell whose."""
        targets = [
            each.number
            for each in given.ports
            if each.name == port.name and each.protocol is Protocol.TCP
        ]
        for target in targets:
            for endpoint in given.endpoints:
                namespace, _, name = endpoint.pod.rpartition("/")
                pods = self._pods.called(namespace, name) if name else ()
                for pod in pods:
                    way = _Way(door, pod.labels, target, _owner(pod))
                    self._ways[namespace].append(way)
                if not pods:
                    way = _Way(door, {}, target, vague=True)
                    self._ways[namespace or given.namespace].append(way)


class _Pods:
    """Pods' templates, found by the pods' names."""

    def __init__(self, templates: Iterable[PodTemplate]) -> None:
        self._templates: dict[tuple[str, str], list[PodTemplate]] = defaultdict(list)
        for each in templates:
            self._templates[each.namespace, _owner(each)].append(each)

    def called(self, namespace: str, name: str) -> Sequence[PodTemplate]:
        """The template of a pod: its own, or that of the workload with the longest name prefix."""
        while name:
            if found := self._templates.get((namespace, name)):
                return found
            name = name.rpartition("-")[0]
        return ()


def _owner(template: PodTemplate) -> str:
    return template.owner or template.name


def _exposed_as(service: ServiceSpec) -> Iterator[str]:
    if service.type in {"NodePort", "LoadBalancer"}:
        yield service.type
    if service.external_ips:
        yield "externalIPs"


def _chosen(service: ServiceSpec, backend: Backend) -> tuple[ServicePortSpec, ...]:
    """The ports that a backend means; all if it names none, or one that doesn't exist."""
    named = tuple(each for each in service.ports if backend.port in {each.number, each.name})
    return named or service.ports
