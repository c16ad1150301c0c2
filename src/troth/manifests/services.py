"""Services, validated as by an API server, and then against their endpoints."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from troth.errors import Problem
from troth.manifests import api, runnable
from troth.manifests.containers import LAST_PORT, PORT_NAME
from troth.manifests.endpoints import SERVICE_NAME_LABEL
from troth.manifests.workloads import ServicePortSpec, ServiceSpec
from troth.mesh.model import Protocol
from troth.syntax import NAME, NAMESPACE, described, is_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from troth.fields import Fields
    from troth.manifests.collect import Manifests
    from troth.manifests.kinds import Source
    from troth.manifests.workloads import EndpointSliceSpec, EndpointsSpec

_WORDS = {
    "type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "sessionAffinity": ("None", "ClientIP"),
    "ipFamilyPolicy": ("SingleStack", "PreferDualStack", "RequireDualStack"),
}
_FAMILIES = ("IPv4", "IPv6")
_ADDRESSING = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
_DUAL = "write PreferDualStack or RequireDualStack"

CLUSTER_DOMAIN = "cluster.local"
"""The suffix of Services' full names."""

MOST_ALIASES = 8
"""The longest chain of such Services."""


def parse_service(source: Source) -> ServiceSpec:
    """A v1 Service."""
    spec = source.top.fields("spec")
    spec.only(api.names("ServiceSpec"))
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
        unsupported=tuple(runnable.unused(spec, "ServiceSpec")),
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
        # The API accepts it as a name whose last label is a number, which no resolver finds.
        found = f"is {described(name)}, which DNS takes for a name and nobody can resolve"
        spec.warn("externalName", found, "write a DNS name, or a Service with an EndpointSlice")
    for field in _ADDRESSING:
        if spec.value(field):
            spec.error(field, "stands beside type ExternalName", "remove it: it has no address")


def _check_cluster_ips(spec: Fields, service: ServiceSpec) -> None:
    """Check addresses as the API server does (``ValidateServiceClusterIPsRelatedFields``)."""
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
    elif len({_family(each) for each in service.requested_ips}) < len(service.requested_ips):
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
        # A DNS label; only a container's port must have a name by RFC 6335.
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


def aliases(services: Iterable[ServiceSpec]) -> tuple[dict[str, str], tuple[Problem, ...]]:
    """The targets of ExternalName Services.

    Returns:
        The name by ``NAMESPACE/NAME``, in lower case and without a final dot; and why others
        resolve to nothing.
    """
    targets = {
        f"{each.namespace}/{each.name}": each.external_name.removesuffix(".").lower()
        for each in services
        if each.type == "ExternalName"
    }
    located = {f"{each.namespace}/{each.name}": each.location for each in services}
    problems = []
    for key in targets:
        found = _flaw(key, targets)
        if found:
            problems.append(
                Problem(
                    subject=f"Service {key}",
                    path="spec.externalName",
                    found=found,
                    wanted="name something else than a Service of type ExternalName",
                    location=located[key],
                )
            )
    bad = {problem.subject.removeprefix("Service ") for problem in problems}
    return {key: name for key, name in targets.items() if key not in bad}, tuple(problems)


def service_of(name: str) -> str | None:
    """``NAMESPACE/NAME`` of the Service with this full DNS name; None if it isn't a Service's."""
    labels = name.removesuffix(f".svc.{CLUSTER_DOMAIN}").split(".")
    if not name.endswith(f".svc.{CLUSTER_DOMAIN}") or len(labels) != 2:  # noqa: PLR2004
        return None
    return f"{labels[1]}/{labels[0]}"


def _flaw(key: str, targets: Mapping[str, str]) -> str:
    chain = [key]
    while (following := service_of(targets[chain[-1]])) in targets:
        assert following is not None  # noqa: S101 - None is no key of targets
        if following in chain:
            way = " → ".join([*chain, following])
            return f"leads round in a circle: {way}"
        chain.append(following)
        if len(chain) > MOST_ALIASES:
            return f"leads through more than {MOST_ALIASES} Services of type ExternalName"
    return ""


def service_problems(manifests: Manifests) -> Iterator[Problem]:
    """Report ExternalNames that resolve to nothing, and endpoints that get no connections.

    The latter are warnings: an API server accepts them.
    """
    yield from aliases(manifests.services.values())[1]
    for endpoints in manifests.endpoints.values():
        yield from _of_endpoints(endpoints, manifests)
    for each in manifests.endpoint_slices.values():
        if each.service:
            yield from _of_slice(f"EndpointSlice {each.namespace}/{each.name}", each, manifests)


def _of_endpoints(endpoints: EndpointsSpec, manifests: Manifests) -> Iterator[Problem]:
    subject = f"Endpoints {endpoints.namespace}/{endpoints.name}"
    service = manifests.services.get(f"{endpoints.namespace}/{endpoints.name}")
    if not endpoints.is_mirrored:
        path = "metadata.labels[endpointslice.kubernetes.io/skip-mirror]"
        yield _warning(endpoints, subject, path, "is true, so it has no effect", "remove the label")
    elif service is not None and service.selector:
        found = f"is of Service {service.namespace}/{service.name}, whose selector replaces it"
        yield _warning(endpoints, subject, "metadata.name", found, "remove it, or the selector")
    elif service is None:
        found = "is no Service's name in that namespace, so it has no effect"
        yield _warning(endpoints, subject, "metadata.name", found, "give it its Service's name")
    else:
        for each in endpoints.slices:
            yield from _of_slice(subject, each, manifests)


def _of_slice(subject: str, each: EndpointSliceSpec, manifests: Manifests) -> Iterator[Problem]:
    key = f"{each.namespace}/{each.service}"
    service = manifests.services.get(key)
    label = f"metadata.labels[{SERVICE_NAME_LABEL}]"
    if service is None or service.type == "ExternalName":
        what = "no Service in that namespace" if service is None else "a Service without endpoints"
        found = f"is {described(each.service)}, {what}, so it has no effect"
        yield _warning(each, subject, label, found, "name a Service that isn't an ExternalName")
        return
    if each.by_controller and service.selector:
        found = f"is the controller's for Service {key}, whose selector replaces it"
        yield _warning(each, subject, label, found, "remove it, or the selector")
        return
    families = service.families()
    if each.family == "FQDN":
        return  # already reported
    if each.family not in families:
        found = f"is {each.family}, but Service {key} has {' and '.join(families)} alone"
        wanted = "let the Service's ipFamilies have it, with ipFamilyPolicy PreferDualStack"
        yield _warning(each, subject, "addressType", found, wanted)
    yield from _unmatched(subject, each, service)


def _unmatched(subject: str, each: EndpointSliceSpec, service: ServiceSpec) -> Iterator[Problem]:
    """Report ports that match none of the Service's: by name and protocol, not by number."""
    known = {(port.name, port.protocol) for port in service.ports}
    for port in each.ports:
        if known and (port.name, port.protocol) not in known:
            names = ", ".join(
                f"{described(name) if name else 'none'} ({protocol})"
                for name, protocol in sorted(known)
            )
            what = f"named {described(port.name)}" if port.name else "without a name"
            yield _warning(
                each,
                subject,
                "ports",
                f"has the {port.protocol} port {port.number} {what}, which Service "
                f"{service.namespace}/{service.name} doesn't have",
                f"write the name of a port of the Service: {names}",
            )


def _warning(
    at: EndpointSliceSpec | EndpointsSpec, subject: str, path: str, found: str, wanted: str
) -> Problem:
    return Problem.warning(subject, path, found, wanted, location=at.location)
