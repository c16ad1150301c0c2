"""Objects through which clients outside the mesh reach a Service: proxies' routes, API extensions.

Only the Services that they route to are read, as far as possible; such an object's own API reports
its other errors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.errors import Location

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from troth.manifests.kinds import Source


class EntranceKind(NamedTuple):
    """How one kind refers to Services.

    Attributes:
        plural: As in its URL.
        group: Its API group.
        versions: Those that have the fields, the preferred one first.
        fields: The keys of a backend, or of a list of them, anywhere in the object.
        namespaced: Whether its objects are in a namespace.
        port: The backend's default port; 0 for every port.
    """

    plural: str
    group: str
    versions: tuple[str, ...]
    fields: tuple[str, ...]
    namespaced: bool = True
    port: int = 0

    @property
    def is_for_api_server(self) -> bool:
        """Whether the client is the API server."""
        return self.port == _API_PORT


_API_PORT = 443


def _extension(plural: str, group: str) -> EntranceKind:
    """A kind by which the API server itself calls Services."""
    return EntranceKind(plural, group, ("v1",), ("service",), namespaced=False, port=_API_PORT)


_ADMISSION = "admissionregistration.k8s.io"
_INGRESS = ("backend", "defaultBackend")
_GATEWAY = "gateway.networking.k8s.io"
_ISTIO = "networking.istio.io"
_DESTINATIONS = ("destination", "mirror")
_REFERENCES = ("backendRefs", "backendRef")
_SERVICES = ("services",)
_APISIX = ("backends", "backend")
_ROWS = (
    ("Ingress", EntranceKind("ingresses", "networking.k8s.io", ("v1",), _INGRESS)),
    ("HTTPRoute", EntranceKind("httproutes", _GATEWAY, ("v1", "v1beta1"), _REFERENCES)),
    ("GRPCRoute", EntranceKind("grpcroutes", _GATEWAY, ("v1", "v1alpha2"), _REFERENCES)),
    ("TLSRoute", EntranceKind("tlsroutes", _GATEWAY, ("v1", "v1alpha3", "v1alpha2"), _REFERENCES)),
    ("TCPRoute", EntranceKind("tcproutes", _GATEWAY, ("v1", "v1alpha2"), _REFERENCES)),
    ("Route", EntranceKind("routes", "route.openshift.io", ("v1",), ("to", "alternateBackends"))),
    ("IngressRoute", EntranceKind("ingressroutes", "traefik.io", ("v1alpha1",), _SERVICES)),
    ("IngressRouteTCP", EntranceKind("ingressroutetcps", "traefik.io", ("v1alpha1",), _SERVICES)),
    ("HTTPProxy", EntranceKind("httpproxies", "projectcontour.io", ("v1",), _SERVICES)),
    ("ApisixRoute", EntranceKind("apisixroutes", "apisix.apache.org", ("v2",), _APISIX)),
    ("VirtualService", EntranceKind("virtualservices", _ISTIO, ("v1", "v1beta1"), _DESTINATIONS)),
    (
        "ValidatingWebhookConfiguration",
        _extension("validatingwebhookconfigurations", _ADMISSION),
    ),
    ("MutatingWebhookConfiguration", _extension("mutatingwebhookconfigurations", _ADMISSION)),
    (
        "CustomResourceDefinition",
        _extension("customresourcedefinitions", "apiextensions.k8s.io"),
    ),
    ("APIService", _extension("apiservices", "apiregistration.k8s.io")),
)
ENTRANCES = {f"{kind}.{row.group}": row for kind, row in _ROWS}
"""The kinds that are read, as ``KIND.GROUP``."""


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """A Service as a route's destination.

    Attributes:
        namespace: Its namespace.
        service: Its name.
        port: Its port, by number or name; 0 for any of its ports.
    """

    namespace: str
    service: str
    port: int | str = 0


class Entrance(msgspec.Struct, frozen=True, kw_only=True):
    """An object that routes clients from outside the mesh to Services.

    Attributes:
        kind: ``KIND.GROUP``.
        namespace: Its namespace; empty if it is cluster-scoped.
        name: Its name.
        backends: Its destinations.
        location: Where the manifest is.
    """

    kind: str
    namespace: str
    name: str
    backends: tuple[Backend, ...] = ()
    location: Location | None = None

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {place}"


_STREAM = re.compile(
    r"(?P<namespace>[-a-z0-9]+)/(?P<service>[-a-z0-9]+):(?P<port>[-a-z0-9]+)(:.*)?"
)


def stream_backends(data: Mapping[str, str]) -> tuple[Backend, ...]:
    """The destinations in an ingress controller's ConfigMap of TCP services (nginx, HAProxy).

    Its keys are ports of the controller, its values ``NAMESPACE/SERVICE:PORT`` with optional
    suffixes. Its name is an argument of the controller.
    """
    found = (_STREAM.fullmatch(each.strip()) for port, each in data.items() if port.isdecimal())
    return tuple(
        Backend(
            namespace=each["namespace"],
            service=each["service"],
            port=int(each["port"]) if each["port"].isdecimal() else each["port"],
        )
        for each in found
        if each
    )


def parse_entrance(source: Source) -> Entrance:
    """Read an object of one of the `ENTRANCES`."""
    kind = ENTRANCES[source.kind]
    value = source.document.value
    asked = value if isinstance(value, dict) else {}
    spec = {key: each for key, each in asked.items() if key not in {"metadata", "status"}}
    found: dict[Backend, None] = {}
    if not _is_for_clients_of_the_mesh(source.kind, spec.get("spec")):
        for reference in _references(spec, kind.fields):
            if backend := _backend(reference, source.namespace, kind.port):
                found[backend] = None
    return Entrance(
        kind=source.kind,
        namespace=source.namespace if kind.namespaced else "",
        name=source.name,
        backends=tuple(found),
        location=source.location,
    )


def _is_for_clients_of_the_mesh(kind: str, spec: object) -> bool:
    """Whether a route is between Services (GAMMA), or only for Istio's sidecars."""
    if not isinstance(spec, dict):
        return False
    if kind == "VirtualService.networking.istio.io":
        gateways = spec.get("gateways")
        return not gateways or gateways == ["mesh"]
    parents = spec.get("parentRefs")
    return (
        isinstance(parents, list)
        and bool(parents)
        and all(isinstance(each, dict) and each.get("kind") == "Service" for each in parents)
    )


def _references(value: object, fields: tuple[str, ...]) -> Iterator[dict[str, object]]:
    """The mappings under one of ``fields``, at any depth."""
    if isinstance(value, list):
        for each in value:
            yield from _references(each, fields)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in fields:
                yield from (each for each in _as_list(inner) if isinstance(each, dict))
            yield from _references(inner, fields)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _backend(reference: dict[str, object], namespace: str, port: int) -> Backend | None:
    inner = reference.get("service")
    if isinstance(inner, dict):  # an Ingress's backend contains the reference
        reference = inner
    if reference.get("kind") not in {None, "Service"}:
        return None
    name = reference.get("name", reference.get("serviceName", reference.get("host")))
    place = reference.get("namespace")
    number = reference.get("port", reference.get("servicePort"))
    if isinstance(number, dict):
        number = number.get("number", number.get("name"))
    if not isinstance(name, str):
        return None
    # A host may be written as a DNS name: web, web.finance, web.finance.svc.cluster.local.
    name, _, rest = name.partition(".")
    place = place if isinstance(place, str) and place else rest.partition(".")[0] or namespace
    return Backend(
        namespace=place,
        service=name,
        port=number if isinstance(number, (int, str)) and number else port,
    )
