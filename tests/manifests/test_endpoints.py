from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from troth.manifests.services import service_problems
from troth.manifests.workloads import EndpointPort, EndpointSliceSpec, EndpointSpec
from troth.mesh.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.manifests.collect import Manifests

SERVICE = "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{port: 80}]}}"
SELECTIVE = SERVICE.replace("spec: {", "spec: {selector: {app: db}, ")


def endpoint_slice(fields: str, *, family: str = "IPv4", labels: str = "") -> str:
    labels = labels or "{kubernetes.io/service-name: db}"
    return (
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, "
        f"metadata: {{name: db-1, labels: {labels}}}, addressType: {family}, {fields}}}"
    )


def endpoints(subsets: str, *, name: str = "db", labels: str = "{}") -> str:
    metadata = f"{{name: {name}, labels: {labels}}}"
    return f"{{apiVersion: v1, kind: Endpoints, metadata: {metadata}, subsets: {subsets}}}"


def test_every_field_of_a_slice_that_matters_is_read(read: Callable[..., Manifests]) -> None:
    manifests = read(
        endpoint_slice(
            "ports: [{name: pg, port: 5432}, {name: dns, port: 53, protocol: UDP}], "
            "endpoints: [{addresses: [192.0.2.9], hostname: first, nodeName: n, zone: z}, "
            "{addresses: [192.0.2.10], conditions: {ready: false, serving: true, "
            "terminating: true}}, {addresses: [192.0.2.11], conditions: {ready: false}}]"
        )
    )
    assert manifests.problems == ()
    assert manifests.endpoint_slices["default/db-1"] == EndpointSliceSpec(
        namespace="default",
        name="db-1",
        service="db",
        family="IPv4",
        ports=(
            EndpointPort(number=5432, name="pg"),
            EndpointPort(number=53, name="dns", protocol=Protocol.UDP),
        ),
        endpoints=(
            EndpointSpec(address="192.0.2.9", hostname="first"),
            EndpointSpec(address="192.0.2.10", ready=False, serving=True, terminating=True),
            EndpointSpec(address="192.0.2.11", ready=False, serving=False),
        ),
        location=manifests.origins["EndpointSlice default/db-1"],
    )


def test_endpoints_are_slices_of_each_subset_and_family(read: Callable[..., Manifests]) -> None:
    subsets = (
        "[{addresses: [{ip: 192.0.2.9, hostname: first}, {ip: '2001:DB8::9'}], "
        "notReadyAddresses: [{ip: 192.0.2.8}], ports: [{port: 5432}]}]"
    )
    manifests = read(f"{SERVICE}\n---\n{endpoints(subsets)}")
    assert manifests.problems == ()
    v4, v6 = manifests.slices
    assert (v4.service, v4.family, v4.ports) == ("db", "IPv4", (EndpointPort(number=5432),))
    assert v4.endpoints == (
        EndpointSpec(address="192.0.2.9", hostname="first"),
        EndpointSpec(address="192.0.2.8", ready=False, serving=False),
    )
    assert (v6.family, v6.endpoints) == ("IPv6", (EndpointSpec(address="2001:db8::9"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            endpoint_slice("endpoints: [{addresses: [db.example]}]", family="FQDN"),
            (
                "addressType: is FQDN, to which no Service is balanced; "
                "write IPv4 or IPv6, or make the Service an ExternalName"
            ),
        ),
        (
            endpoint_slice("endpoints: []", family="ipv4"),
            'addressType: is "ipv4"; write IPv4 or IPv6',
        ),
        (
            endpoint_slice("endpoints: [{}]"),
            "endpoints[0].addresses: is missing; write the endpoint's address there",
        ),
        (
            endpoint_slice("endpoints: [{addresses: [db]}]"),
            'endpoints[0].addresses[0]: is "db"; write an IP',
        ),
        (
            endpoint_slice("endpoints: [{addresses: ['fd00::1']}]"),
            "endpoints[0].addresses[0]: is fd00::1; write an IPv4 address",
        ),
        (
            endpoint_slice("endpoints: [{addresses: [127.0.0.1]}]"),
            (
                "endpoints[0].addresses[0]: is 127.0.0.1, a loopback address, which is another "
                "one's in every pod; write one that all pods reach"
            ),
        ),
        (
            endpoint_slice("endpoints: [{addresses: [192.0.2.9, 192.0.2.8]}]"),
            (
                "endpoints[0].addresses: has 2 of them, and only the first counts; "
                "make an endpoint of each"
            ),
        ),
        (
            endpoint_slice("ports: [{port: 70000}]"),
            "ports[0].port: is the number 70000; write a whole number, 1 to 65535",
        ),
        (
            endpoint_slice("ports: [{name: a}]"),
            ("ports[0].port: is missing, so no port of a Service leads there; write a port"),
        ),
        (
            endpoint_slice("ports: [{port: 80}, {port: 81}]"),
            'ports: has two TCP ports named ""; give each a name of its own',
        ),
        (
            endpoint_slice("endpoints: []", labels="{app: db}"),
            (
                "metadata.labels[kubernetes.io/service-name]: is missing, so it is no Service's; "
                "name the Service there"
            ),
        ),
        (
            endpoint_slice("endpoints: [{addresses: [192.0.2.9], conditions: {redy: true}}]"),
            (
                "endpoints[0].conditions.redy: is an unknown field and has no effect; "
                "did you mean ready?"
            ),
        ),
        (
            endpoints("[{}]"),
            "subsets[0]: has no addresses; write them to addresses or notReadyAddresses",
        ),
        (
            endpoints("[{addresses: [{}]}]"),
            "subsets[0].addresses[0].ip: is missing; write the endpoint's IP",
        ),
        (
            endpoints("[{addresses: [{ip: 192.0.2.9}], ports: [{port: 1, name: a}, {port: 2}]}]"),
            "subsets[0].ports[1].name: is missing; name each of several ports",
        ),
    ],
)
def test_what_is_doubtful_is_named_with_the_reason(
    text: str, message: str, problems: Callable[[str], list[str]]
) -> None:
    assert problems(text) == [message]


SLICE = endpoint_slice("endpoints: [{addresses: [192.0.2.9]}], ports: [{port: 80}]")
SUBSETS = "[{addresses: [{ip: 192.0.2.9}], ports: [{port: 80}]}]"
ALIAS = SERVICE.replace("ports: [{port: 80}]", "type: ExternalName, externalName: x.y")
LABEL = "metadata.labels[kubernetes.io/service-name]"


@pytest.mark.parametrize(
    ("texts", "path", "found"),
    [
        pytest.param(
            [SLICE],
            LABEL,
            'is "db", no Service in that namespace, so it has no effect',
            id="a slice of no service",
        ),
        pytest.param(
            [
                SLICE,
                SERVICE.replace("{ports: [{port: 80}]}", "{type: ExternalName, externalName: x.y}"),
            ],
            LABEL,
            'is "db", a Service without endpoints, so it has no effect',
            id="a slice of an alias",
        ),
        pytest.param(
            [endpoints(SUBSETS)],
            "metadata.name",
            "is no Service's name in that namespace, so it has no effect",
            id="endpoints of no service",
        ),
        pytest.param(
            [endpoints(SUBSETS), SELECTIVE],
            "metadata.name",
            "is of Service default/db, whose selector replaces it",
            id="endpoints beside a selector",
        ),
        pytest.param(
            [
                endpoints(SUBSETS, labels="{endpointslice.kubernetes.io/skip-mirror: 'true'}"),
                SERVICE,
            ],
            "metadata.labels[endpointslice.kubernetes.io/skip-mirror]",
            "is true, so it has no effect",
            id="endpoints not to be mirrored",
        ),
        pytest.param(
            [endpoints(SUBSETS.replace("ip: 192.0.2.9", "ip: 'fd00::9'")), SERVICE],
            "addressType",
            "is IPv6, but Service default/db has IPv4 alone",
            id="another family",
        ),
    ],
)
def test_endpoints_without_effect_are_told_of(
    texts: list[str], path: str, found: str, read: Callable[..., Manifests]
) -> None:
    (problem,) = service_problems(read("\n---\n".join(texts)))
    assert (problem.path, problem.found) == (path, found)


def test_a_slice_and_endpoints_of_their_service_are_as_they_should_be(
    read: Callable[..., Manifests],
) -> None:
    assert [*service_problems(read("\n---\n".join((SLICE, endpoints(SUBSETS), SERVICE))))] == []
    assert [*service_problems(read(f"{SLICE}\n---\n{SELECTIVE}"))] == []
