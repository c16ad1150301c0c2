"""A Service's endpoints in manifests: EndpointSlices, and the older Endpoints."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from troth.manifests import api
from troth.manifests.containers import LAST_PORT
from troth.manifests.workloads import (
    EndpointPort,
    EndpointSliceSpec,
    EndpointSpec,
    EndpointsSpec,
)
from troth.mesh.model import Protocol
from troth.syntax import NAMESPACE, described

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.fields import Fields
    from troth.manifests.kinds import Source

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
_MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
_CONTROLLER = "endpointslice-controller.k8s.io"
_SKIP_MIRROR_LABEL = "endpointslice.kubernetes.io/skip-mirror"
_FAMILIES = ("IPv4", "IPv6")
_MOST_ENDPOINTS = 1000


def parse_endpoint_slice(source: Source) -> EndpointSliceSpec:
    """A discovery.k8s.io/v1 EndpointSlice."""
    top = source.top
    top.only(api.ENDPOINT_SLICE)
    labels = top.fields("metadata").labels("labels")
    service = labels.get(SERVICE_NAME_LABEL, "")
    if not service:
        path = f"metadata.labels[{SERVICE_NAME_LABEL}]"
        source.report.warn(path, "is missing, so it is no Service's", "name the Service there")
    family = top.needed("addressType", "write IPv4 or IPv6")
    if family == "FQDN":
        wanted = "write IPv4 or IPv6, or make the Service an ExternalName"
        top.warn("addressType", "is FQDN, to which no Service is balanced", wanted)
    elif family and family not in _FAMILIES:
        top.error("addressType", f"is {described(family)}", "write IPv4 or IPv6")
    endpoints = top.each("endpoints")
    if len(endpoints) > _MOST_ENDPOINTS:
        found = f"has {len(endpoints)} of them"
        top.error("endpoints", found, f"give a slice no more than {_MOST_ENDPOINTS}")
    ports = [_slice_port(port) for port in top.each("ports")]
    _refuse_twice(top, "ports", ports)
    return EndpointSliceSpec(
        namespace=source.namespace,
        name=source.name,
        service=service,
        family=family,
        ports=tuple(port for port in ports if port.number),
        endpoints=tuple(_endpoint(each, family, source.namespace) for each in endpoints),
        by_controller=labels.get(_MANAGED_BY_LABEL) == _CONTROLLER,
        location=source.location,
    )


def _slice_port(fields: Fields) -> EndpointPort:
    if "port" not in fields:
        # To the API it means any port, but to proxies it means none.
        fields.warn("port", "is missing, so no port of a Service leads there", "write a port")
    return _port(fields)


def _port(fields: Fields) -> EndpointPort:
    fields.only(api.ENDPOINT_PORT)
    return EndpointPort(
        number=fields.integer("port", 0, low=1, high=LAST_PORT),
        name=fields.string("name", rule=NAMESPACE),
        protocol=fields.choice("protocol", Protocol, Protocol.TCP),
    )


def _endpoint(fields: Fields, family: str, namespace: str) -> EndpointSpec:
    fields.only(api.ENDPOINT)
    addresses = tuple(
        fields.plain_address(f"{fields.at('addresses')}[{index}]", each)
        for index, each in enumerate(fields.strings("addresses"))
    )
    if not addresses:
        fields.missing("addresses", "write the endpoint's address there")
    if len(addresses) > 1:
        found = f"has {len(addresses)} of them, and only the first counts"
        fields.warn("addresses", found, "make an endpoint of each")
    for index, address in enumerate(addresses):
        path = f"{fields.at('addresses')}[{index}]"
        if family not in _FAMILIES:
            break
        parsed = _checked(fields, path, address)
        if parsed and f"IPv{parsed.version}" != family:
            fields.report.error(path, f"is {address}", f"write an {family} address")
    conditions = fields.fields("conditions")
    conditions.only(("ready", "serving", "terminating"))
    ready = conditions.boolean("ready", default=True)
    return EndpointSpec(
        address=_canonical(addresses[0]) if addresses else "",
        hostname=fields.string("hostname", rule=NAMESPACE),
        pod=_pod(fields, namespace),
        ready=ready,
        serving=conditions.boolean("serving", default=ready),
        terminating=conditions.boolean("terminating"),
    )


def parse_endpoints(source: Source) -> EndpointsSpec:
    """A v1 Endpoints, as the slices that a cluster mirrors it to: one per subset and family."""
    top = source.top
    top.only(("apiVersion", "kind", "metadata", "subsets"))
    labels = top.fields("metadata").labels("labels")
    slices = [each for subset in top.each("subsets") for each in _subset(source, subset)]
    return EndpointsSpec(
        namespace=source.namespace,
        name=source.name,
        slices=tuple(slices),
        is_mirrored=labels.get(_SKIP_MIRROR_LABEL) != "true",
        location=source.location,
    )


def _subset(source: Source, subset: Fields) -> Iterator[EndpointSliceSpec]:
    subset.only(("addresses", "notReadyAddresses", "ports"))
    several = len(subset.items("ports")) > 1
    ports = [_endpoints_port(port, named=several) for port in subset.each("ports")]
    _refuse_twice(subset, "ports", ports)
    found = [
        *_addresses(subset.each("addresses"), source.namespace, ready=True),
        *_addresses(subset.each("notReadyAddresses"), source.namespace, ready=False),
    ]
    if not found:
        wanted = "write them to addresses or notReadyAddresses"
        source.report.error(subset.path, "has no addresses", wanted)
    for family in _FAMILIES:
        endpoints = tuple(each for each in found if (":" in each.address) == (family == "IPv6"))
        if endpoints:
            yield EndpointSliceSpec(
                namespace=source.namespace,
                name=source.name,
                service=source.name,
                family=family,
                ports=tuple(ports),
                endpoints=endpoints,
                location=source.location,
            )


def _endpoints_port(fields: Fields, *, named: bool) -> EndpointPort:
    if "port" not in fields:
        fields.missing("port", f"write a port, 1 to {LAST_PORT}")
    port = _port(fields)
    if named and not fields.value("name"):
        fields.missing("name", "name each of several ports")
    return port


def _pod(endpoint: Fields, namespace: str) -> str:
    """The Pod that an endpoint's ``targetRef`` names."""
    reference = endpoint.fields("targetRef")
    name = reference.string("name")
    is_pod = name and reference.string("kind") == "Pod"
    return f"{reference.string('namespace') or namespace}/{name}" if is_pod else ""


def _addresses(given: Iterable[Fields], namespace: str, *, ready: bool) -> Iterator[EndpointSpec]:
    for fields in given:
        fields.only(("hostname", "ip", "nodeName", "targetRef"))
        given_ip = fields.needed("ip", "write the endpoint's IP")
        address = fields.plain_address(fields.at("ip"), given_ip)
        if address:
            _checked(fields, fields.at("ip"), address)
        yield EndpointSpec(
            address=_canonical(address),
            hostname=fields.string("hostname", rule=NAMESPACE),
            pod=_pod(fields, namespace),
            ready=ready,
            serving=ready,
        )


def _refuse_twice(fields: Fields, name: str, ports: list[EndpointPort]) -> None:
    names = [(port.name, port.protocol) for port in ports]
    for each in sorted({each for each in names if names.count(each) > 1}):
        wanted = "give each a name of its own"
        fields.error(name, f"has two {each[1]} ports named {described(each[0])}", wanted)


def _checked(fields: Fields, path: str, text: str) -> IPv4Address | IPv6Address | None:
    """The address, or None; the rules are the API server's (``ValidateEndpointIP``)."""
    try:
        address = ip_address(text)
    except ValueError:
        fields.report.error(path, f"is {described(text)}", "write an IP")
        return None
    if getattr(address, "scope_id", None):
        fields.report.error(path, f"is {described(text)}", "write an IP without a zone")
    for what, special in (
        ("the unspecified address", address.is_unspecified),
        ("a loopback address, which is another one's in every pod", address.is_loopback),
        ("a link-local address", address.is_link_local),
        ("a multicast address", address.is_multicast),
    ):
        if special:
            fields.report.error(path, f"is {text}, {what}", "write one that all pods reach")
    return address


def _canonical(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return ""
