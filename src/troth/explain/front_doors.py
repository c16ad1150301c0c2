"""Who would be refused by STRICT; above all at ports that are reached from outside every mesh.

They are reached by nodes, by gateways, by the API server.
Who comes in there has no identity, and is refused by STRICT. By the manifests all that can be said
is that he may come.
"""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.mesh.model import Protocol
from troth.sources.custom import KNATIVE_REQUESTS, KNATIVE_SERVICE
from troth.sources.entrances import ENTRANCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from troth.mesh.model import ContainerPort
    from troth.sources.collect import Manifests
    from troth.sources.entrances import Backend
    from troth.sources.workloads import PodTemplate, ServicePortSpec, ServiceSpec


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
    """Who comes in by a front door."""

    ANYBODY = "clients outside the cluster"
    GATEWAY = "a gateway or ingress controller"
    API_SERVER = "the API server"


class FrontDoor(msgspec.Struct, frozen=True, kw_only=True):
    """Why clients without an identity may come to a port.

    Attributes:
        kind: ``NodePort``, ``LoadBalancer``, ``externalIPs``, ``hostPort``, or the kind of ``by``.
        by: The object that leads them there, ``KIND NAMESPACE/NAME``.
        clients: Who they are.
    """

    kind: str
    by: str
    clients: Caller

    def __str__(self) -> str:
        return self.by if self.by.startswith(f"{self.kind} ") else f"{self.by} ({self.kind})"


class _Way(NamedTuple):
    """From a front door to the pods behind it; the target is a port's number or name.

    A way to the pods of an ``owner`` leads to no others that are known to have another one.
    """

    door: FrontDoor
    selector: Mapping[str, str]
    target: int | str
    owner: str = ""

    def leads_to(self, labels: Mapping[str, str], owner: str) -> bool:
        """Whether it leads to pods of these labels; one to a pod without any, to no others."""
        if not self.selector.items() <= labels.items():
            return False
        return self.owner == owner if self.owner and owner else bool(self.selector or not labels)


def worst(verdicts: Iterable[Breakage]) -> Breakage:
    """What several verdicts say together."""
    return min(verdicts, key=list(Breakage).index, default=Breakage.NONE)


class FrontDoors:
    """The front doors that manifests describe, found by whom they lead to."""

    def __init__(self, manifests: Manifests) -> None:
        self._ways: dict[str, list[_Way]] = defaultdict(list)
        self._owners = {(each.namespace, _owner(each)) for each in manifests.templates}
        self._add_services(manifests)
        self._add_entrances(manifests)
        self._add_pods(manifests)

    def of(
        self,
        namespace: str,
        labels: Mapping[str, str],
        ports: Iterable[ContainerPort],
        *,
        owner: str = "",
    ) -> dict[int, tuple[FrontDoor, ...]]:
        """The front doors of pods, by the port that they lead to.

        Args:
            namespace: The pods'.
            labels: The pods'.
            ports: What their containers declare.
            owner: The name of what makes them, or of a bare pod; empty where it isn't known.
        """
        if (namespace, owner) not in self._owners:
            owner = ""  # what the manifests call otherwise, or don't have
        names = {port.name: port.number for port in ports if port.protocol is Protocol.TCP}
        found: dict[int, dict[FrontDoor, None]] = defaultdict(dict)
        for way in self._ways.get(namespace, ()):
            target = names.get(way.target) if isinstance(way.target, str) else way.target
            if target and way.leads_to(labels, owner):
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
                service = manifests.services.get(f"{backend.namespace}/{backend.service}")
                if service:
                    self._lead(door, service, _chosen(service, backend))

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

    def _lead(
        self, door: FrontDoor, service: ServiceSpec, ports: Iterable[ServicePortSpec]
    ) -> None:
        if service.selector and service.type != "ExternalName":
            self._ways[service.namespace].extend(
                _Way(door, service.selector, port.target)
                for port in ports
                if port.protocol is Protocol.TCP
            )


def _owner(template: PodTemplate) -> str:
    return template.owner or template.name


def _exposed_as(service: ServiceSpec) -> Iterator[str]:
    if service.type in {"NodePort", "LoadBalancer"}:
        yield service.type
    if service.external_ips:
        yield "externalIPs"


def _chosen(service: ServiceSpec, backend: Backend) -> tuple[ServicePortSpec, ...]:
    """The ports that a backend means; all where it names none, or none that there is."""
    named = tuple(each for each in service.ports if backend.port in {each.number, each.name})
    return named or service.ports
