"""What is wrong with Services only when they are seen together with what stands behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.errors import Problem, Severity
from troth.manifests.aliases import aliases
from troth.manifests.endpoints import SERVICE_NAME_LABEL
from troth.syntax import described

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import EndpointSliceSpec, EndpointsSpec, ServiceSpec


def service_problems(manifests: Manifests) -> Iterator[Problem]:
    """Say which ExternalNames resolve to nothing, and which endpoints no connection is sent to.

    The last are warnings: an API server takes all that.
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
        return  # which is said of it already
    if each.family not in families:
        found = f"is {each.family}, but Service {key} has {' and '.join(families)} alone"
        wanted = "let the Service's ipFamilies have it, with ipFamilyPolicy PreferDualStack"
        yield _warning(each, subject, "addressType", found, wanted)
    yield from _unmatched(subject, each, service)


def _unmatched(subject: str, each: EndpointSliceSpec, service: ServiceSpec) -> Iterator[Problem]:
    """Ports go together by name and protocol, not by number: a mistake easily made."""
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
    return Problem(
        subject=subject,
        path=path,
        found=found,
        wanted=wanted,
        severity=Severity.WARNING,
        location=at.location,
    )
