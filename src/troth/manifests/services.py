"""Services, checked as an API server checks them."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from troth.manifests import api, without_effect
from troth.manifests.containers import LAST_PORT, PORT_NAME
from troth.manifests.workloads import ServicePortSpec, ServiceSpec
from troth.mesh.model import Protocol
from troth.syntax import NAME, NAMESPACE, described, is_address

if TYPE_CHECKING:
    from troth.manifests.objects import Source
    from troth.manifests.reader import Fields

_WORDS = {
    "type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "sessionAffinity": ("None", "ClientIP"),
    "ipFamilyPolicy": ("SingleStack", "PreferDualStack", "RequireDualStack"),
}
_FAMILIES = ("IPv4", "IPv6")
_ADDRESSING = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
_DUAL = "write PreferDualStack or RequireDualStack"


def parse_service(source: Source) -> ServiceSpec:
    """A v1 Service."""
    spec = source.top.fields("spec")
    spec.only(api.SERVICE_SPEC)
    kind = _word(spec, "type", "ClusterIP")
    cluster_ips = tuple(
        spec.plain_address(f"{spec.at('clusterIPs')}[{index}]", each)
        for index, each in enumerate(spec.strings("clusterIPs"))
    )
    cluster_ip = spec.plain_address(spec.at("clusterIP"), spec.string("clusterIP"))
    cluster_ip = cluster_ip or next(iter(cluster_ips), "")
    if "sessionAffinityConfig" in spec:
        wanted = "a client stays with an endpoint as long as that is usable"
        spec.warn("sessionAffinityConfig", "has no effect", wanted)
    ports = tuple(_port(port) for port in spec.each("ports"))
    _check_ports(spec, ports, optional=kind == "ExternalName" or cluster_ip == "None")
    found = ServiceSpec(
        namespace=source.namespace,
        name=source.name,
        type=kind,
        selector=spec.labels("selector"),
        cluster_ip=cluster_ip,
        cluster_ips=cluster_ips,
        ip_families=spec.strings("ipFamilies"),
        ip_family_policy=_word(spec, "ipFamilyPolicy", ""),
        ports=ports,
        publish_not_ready=spec.boolean("publishNotReadyAddresses"),
        client_ip_affinity=_word(spec, "sessionAffinity", "None") == "ClientIP",
        external_ips=spec.strings("externalIPs"),
        external_name=spec.string("externalName"),
        unsupported=tuple(without_effect.given(spec, without_effect.SERVICE)),
        location=source.location,
    )
    if kind == "ExternalName":
        _check_external_name(spec, found)
    else:
        _check_cluster_ips(spec, found)
        _check_families(spec, found)
    return found


def _word(fields: Fields, name: str, default: str) -> str:
    value = fields.string(name, default)
    if value != default and value not in _WORDS[name]:
        words = ", ".join(_WORDS[name])
        fields.error(name, f"is {described(value)}", f"write one of {words}")
        return default
    return value


def _check_external_name(spec: Fields, service: ServiceSpec) -> None:
    name = service.external_name.removesuffix(".")
    if not name:
        spec.missing("externalName", "write the DNS name it stands for")
    elif flaw := NAME.flaw(name):
        spec.error("externalName", *flaw)
    elif is_address(name):
        # The API takes it, as a name whose last label is a number, and no resolver finds that.
        found = f"is {described(name)}, which DNS takes for a name and nobody can resolve"
        spec.warn("externalName", found, "write a DNS name, or a Service with an EndpointSlice")
    for field in _ADDRESSING:
        if spec.value(field):
            spec.error(field, "stands beside type ExternalName", "remove it: it has no address")


def _check_cluster_ips(spec: Fields, service: ServiceSpec) -> None:
    """What ``ValidateServiceClusterIPsRelatedFields`` of the API server checks of addresses."""
    at = spec.at("clusterIPs")
    given = [(f"{at}[{index}]", each) for index, each in enumerate(service.cluster_ips)]
    bad = False
    for path, address in given or [(spec.at("clusterIP"), service.cluster_ip)]:
        if address not in ("", "None") and not is_address(address):
            spec.report.error(path, f"is {described(address)}", "write an IP, None or nothing")
            bad = True
    if service.headless and service.type != "ClusterIP":
        wanted = "remove it, or let type be ClusterIP"
        spec.error("clusterIP", f"is None, which a {service.type} Service can't be", wanted)
    if not given or bad:
        return
    addresses = service.cluster_ips
    if addresses[0] != service.cluster_ip:
        spec.error("clusterIPs", "does not begin with clusterIP", "let the first be the same")
    elif "None" in addresses[1:] or (service.headless and len(addresses) > 1):
        spec.error("clusterIPs", "has None beside an address", "write None alone")
    elif len({_family(each) for each in addresses}) < len(addresses):
        spec.error("clusterIPs", "has several of one IP family", "keep one of each")


def _check_families(spec: Fields, service: ServiceSpec) -> None:
    families = service.ip_families
    for index, family in enumerate(families):
        path = f"{spec.at('ipFamilies')}[{index}]"
        if family not in _FAMILIES:
            spec.report.error(path, f"is {described(family)}", "write IPv4 or IPv6")
        elif family in families[:index]:
            spec.report.error(path, f"is {family} once more", "name each family once")
    if spec.report.errors:
        return
    requested = service.requested_ips
    for index, (address, family) in enumerate(zip(requested, families, strict=False)):
        if _family(address) != family:
            field = "clusterIPs" if service.cluster_ips else "clusterIP"
            path = f"{spec.at(field)}[{index}]" if service.cluster_ips else spec.at(field)
            found = f"is {address}, but ipFamilies[{index}] is {family}"
            spec.report.error(path, found, "let addresses and families have the same order")
    several = "two IP families" if len(families) > 1 else "two clusterIPs"
    if max(len(families), len(requested)) > 1 and service.family_policy == "SingleStack":
        found = "is SingleStack" if service.ip_family_policy else "is missing, so SingleStack"
        spec.error("ipFamilyPolicy", f"{found}, but there are {several}", _DUAL)


def _family(address: str) -> str:
    return f"IPv{ipaddress.ip_address(address).version}"


def _port(fields: Fields) -> ServicePortSpec:
    if "port" not in fields:
        fields.missing("port", f"write a port, 1 to {LAST_PORT}")
    number = fields.integer("port", 1, low=1, high=LAST_PORT)
    target: int | str
    if isinstance(fields.value("targetPort"), str):
        target = fields.string("targetPort", rule=PORT_NAME) or number
    else:
        target = fields.integer("targetPort", 0, high=LAST_PORT) or number
    return ServicePortSpec(
        number=number,
        target=target,
        # A DNS label; only a container's port has to have a name of RFC 6335.
        name=fields.string("name", rule=NAMESPACE),
        protocol=fields.choice("protocol", Protocol, Protocol.TCP),
    )


def _check_ports(spec: Fields, ports: tuple[ServicePortSpec, ...], *, optional: bool) -> None:
    if not ports and not optional:
        spec.missing("ports", "list at least one port")
    seen: set[object] = set()
    for port in ports:
        for key, what in (
            ((port.number, port.protocol), f"{port.number}/{port.protocol}"),
            (port.name, f"named {described(port.name)}"),
        ):
            if key in seen and key:
                spec.error("ports", f"has the port {what} twice", "keep one of them")
            seen.add(key)
    if len(ports) > 1 and not all(port.name for port in ports):
        spec.error("ports", "has several ports, not all with a name", "name each of them")
