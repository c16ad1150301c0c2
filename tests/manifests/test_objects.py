from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.manifests.collect import Manifests
from troth.manifests.workloads import ConfigMap, Secret, ServicePortSpec
from troth.mesh.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


def service(spec: str) -> str:
    return f"{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{{spec}}}}}"


def test_a_config_map_is_read(read: Callable[..., Manifests]) -> None:
    manifests = read(
        """\
        {apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: ns},
         data: {a: x, empty: }, binaryData: {b: AAE=}}
        """
    )
    found = manifests.config_maps["ns/c"]
    assert found == ConfigMap(
        namespace="ns",
        name="c",
        data={"a": "x", "empty": ""},
        binary_data={"b": b"\x00\x01"},
        location=found.location,
    )


def test_string_data_of_a_secret_wins(read: Callable[..., Manifests]) -> None:
    manifests = read(
        """\
        apiVersion: v1
        kind: Secret
        metadata: {name: s}
        type: kubernetes.io/basic-auth
        data:
          a: eA==
          long: |
            eHh4
            eHh4
        stringData: {a: z}
        """
    )
    assert manifests.problems == ()
    secret = manifests.secrets["default/s"]
    assert secret.type == "kubernetes.io/basic-auth"
    assert secret.data == {"a": b"z", "long": b"xxxxxx"}


@pytest.mark.parametrize("show", [repr, str, lambda secret: list(secret.__rich_repr__())])
def test_a_secret_shows_its_keys_only(show: Callable[[Secret], object]) -> None:
    secret = Secret(namespace="n", name="s", data={"token": b"hunter2"})
    shown = str(show(secret))
    assert "hunter2" not in shown
    assert "token" in shown
    assert "hunter2" not in str(show_in_manifests(secret))


def show_in_manifests(secret: Secret) -> Manifests:
    return Manifests(secrets={"n/s": secret})


@pytest.mark.parametrize(
    "fields",
    ["data: {a: 5317008}", "data: {a: '%5317008'}", "stringData: {a: 5317008}"],
    ids=["number", "not-base64", "number-as-text"],
)
def test_a_problem_of_a_secret_does_not_show_its_value(
    fields: str, problems: Callable[[str], list[str]]
) -> None:
    (problem,) = problems(f"{{apiVersion: v1, kind: Secret, metadata: {{name: s}}, {fields}}}")
    assert problem.startswith(("data[a]: ", "stringData[a]: "))
    assert "5317008" not in problem


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            "data: {a: 1}",
            "data[a]: is the number 1; put quotes around it to make it a string",
        ),
        (
            "data: {../x: a}",
            (
                "data: has a key that is \"../x\"; use a-z, A-Z, 0-9, '-', '_' and '.', and don't "
                "begin with '..'"
            ),
        ),
        (
            "data: {a: x}, binaryData: {a: eA==}",
            'binaryData: has the key "a" of data; keep one of them',
        ),
        (
            "binaryData: {a: x}",
            "binaryData[a]: is not base64; encode it",
        ),
        (
            "data: [a]",
            "data: is a list; write a mapping",
        ),
    ],
)
def test_a_bad_config_map_is_refused_with_the_reason(
    fields: str, message: str, problems: Callable[[str], list[str]]
) -> None:
    text = f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}, {fields}}}"
    assert problems(text) == [message]


def test_a_service_account_is_read(read: Callable[..., Manifests]) -> None:
    manifests = read("{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: ns}}")
    assert list(manifests.service_accounts) == ["ns/a"]


def test_a_headless_service_is_read_as_an_api_server_stores_it(
    read: Callable[..., Manifests],
) -> None:
    manifests = read(
        service(
            "type: ClusterIP, selector: {app: web}, clusterIP: None, clusterIPs: [None], "
            "ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, ports: [{port: 80}]"
        )
    )
    assert manifests.problems == ()
    assert manifests.services["default/web"].headless


def test_every_field_of_a_service_is_read(read: Callable[..., Manifests]) -> None:
    manifests = read(
        service(
            "type: NodePort, selector: {app: web}, clusterIP: 10.96.0.7, "
            "clusterIPs: [10.96.0.7, 'fd00::7'], ipFamilies: [IPv4, IPv6], "
            "ipFamilyPolicy: RequireDualStack, publishNotReadyAddresses: true, "
            "ports: [{port: 80, name: http, targetPort: web, nodePort: 30000}, "
            "{port: 53, name: dns, protocol: UDP}, {port: 443, name: tls, targetPort: 8443}]"
        )
    )
    assert manifests.problems == ()
    found = manifests.services["default/web"]
    assert found.type == "NodePort"
    assert found.selector == {"app": "web"}
    assert found.cluster_ip == "10.96.0.7"
    assert found.cluster_ips == ("10.96.0.7", "fd00::7")
    assert found.ip_families == ("IPv4", "IPv6")
    assert found.ip_family_policy == "RequireDualStack"
    assert found.publish_not_ready
    assert not found.headless
    assert found.ports == (
        ServicePortSpec(number=80, name="http", target="web"),
        ServicePortSpec(number=53, name="dns", protocol=Protocol.UDP, target=53),
        ServicePortSpec(number=443, name="tls", target=8443),
    )


def test_a_headless_service_needs_no_ports(read: Callable[..., Manifests]) -> None:
    manifests = read(service("clusterIP: None"))
    assert manifests.problems == ()
    assert manifests.services["default/web"].headless


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "spec.ports: is missing; list at least one port"),
        ("ports: [{}]", "spec.ports[0].port: is missing; write a port, 1 to 65535"),
        (
            "ports: [{port: 0}]",
            "spec.ports[0].port: is the number 0; write a whole number, 1 to 65535",
        ),
        (
            "ports: [{port: 80}, {port: 81}]",
            "spec.ports: has several ports, not all with a name; name each of them",
        ),
        (
            "ports: [{port: 80, name: a}, {port: 80, name: b}]",
            "spec.ports: has the port 80/TCP twice; keep one of them",
        ),
        (
            "ports: [{port: 80, name: a}, {port: 81, name: a}]",
            'spec.ports: has the port named "a" twice; keep one of them',
        ),
        (
            "ports: [{port: 80, targetPort: '8080'}]",
            (
                "spec.ports[0].targetPort: is \"8080\"; use up to 15 of a-z, 0-9 and '-', with a "
                "letter among them (RFC 6335)"
            ),
        ),
        (
            "clusterIP: 10.0.0, ports: [{port: 80}]",
            'spec.clusterIP: is "10.0.0"; write an IP, None or nothing',
        ),
        (
            "clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2], ports: [{port: 80}]",
            "spec.clusterIPs: does not begin with clusterIP; let the first be the same",
        ),
        (
            "ipFamilies: [ipv4], ports: [{port: 80}]",
            'spec.ipFamilies[0]: is "ipv4"; write IPv4 or IPv6',
        ),
        (
            "type: Public, ports: [{port: 80}]",
            'spec.type: is "Public"; write one of ClusterIP, NodePort, LoadBalancer, ExternalName',
        ),
        (
            "ipFamilies: [IPv4, IPv4], ports: [{port: 80}]",
            "spec.ipFamilies[1]: is IPv4 once more; name each family once",
        ),
        (
            "ipFamilies: [IPv4, IPv6], ports: [{port: 80}]",
            (
                "spec.ipFamilyPolicy: is missing, so SingleStack, but there are two IP families; "
                "write PreferDualStack or RequireDualStack"
            ),
        ),
        (
            "ipFamilyPolicy: SingleStack, clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{port: 80}]",
            (
                "spec.ipFamilyPolicy: is SingleStack, but there are two clusterIPs; "
                "write PreferDualStack or RequireDualStack"
            ),
        ),
        (
            "ipFamilies: [IPv6], clusterIP: 10.0.0.1, ports: [{port: 80}]",
            (
                "spec.clusterIP: is 10.0.0.1, but ipFamilies[0] is IPv6; "
                "let addresses and families have the same order"
            ),
        ),
        (
            "clusterIPs: [10.0.0.1, 10.0.0.2], ports: [{port: 80}]",
            "spec.clusterIPs: has several of one IP family; keep one of each",
        ),
        (
            "clusterIPs: [10.0.0.1, None], ports: [{port: 80}]",
            "spec.clusterIPs: has None beside an address; write None alone",
        ),
        (
            "clusterIP: None, type: NodePort",
            (
                "spec.clusterIP: is None, which a NodePort Service can't be; "
                "remove it, or let type be ClusterIP"
            ),
        ),
        (
            "type: ExternalName, externalName: a_b",
            (
                "spec.externalName: is \"a_b\"; use a-z, 0-9, '-' and '.', each part beginning "
                "and ending with a letter or digit (RFC 1123 subdomain)"
            ),
        ),
        (
            "type: ExternalName, externalName: db.example, ipFamilies: [IPv4]",
            "spec.ipFamilies: stands beside type ExternalName; remove it: it has no address",
        ),
        (
            "type: ExternalName, externalName: 10.9.9.9",
            (
                'spec.externalName: is "10.9.9.9", which DNS takes for a name and nobody can '
                "resolve; write a DNS name, or a Service with an EndpointSlice"
            ),
        ),
        ("type: ExternalName", "spec.externalName: is missing; write the DNS name it stands for"),
        (
            "selector: {app: a b}, ports: [{port: 80}]",
            (
                "spec.selector[app]: is \"a b\"; use a-z, A-Z, 0-9, '-', '_' and '.', beginning "
                "and ending with a letter or digit, or leave it empty"
            ),
        ),
        (
            "sessionAffinity: ClientIp, ports: [{port: 80}]",
            'spec.sessionAffinity: is "ClientIp"; write one of None, ClientIP',
        ),
        (
            (
                "sessionAffinity: ClientIP, ports: [{port: 80}], "
                "sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}"
            ),
            (
                "spec.sessionAffinityConfig: has no effect; "
                "a client stays with an endpoint as long as that is usable"
            ),
        ),
        (
            "slector: {}, ports: [{port: 80}]",
            "spec.slector: is an unknown field and has no effect; did you mean selector?",
        ),
    ],
)
def test_a_doubtful_service_is_named_with_the_reason(
    spec: str, message: str, problems: Callable[[str], list[str]]
) -> None:
    assert problems(service(spec)) == [message]


@pytest.mark.parametrize(
    ("spec", "families"),
    [
        ("ports: [{port: 80}]", ("IPv4",)),
        ("ports: [{port: 80}], ipFamilies: [IPv6]", ("IPv6",)),
        ("ports: [{port: 80}], ipFamilyPolicy: PreferDualStack", ("IPv4", "IPv6")),
        ("ports: [{port: 80}], clusterIP: 'fd00::7'", ("IPv6",)),
        (
            "ports: [{port: 80}], clusterIP: 'fd00::7', ipFamilyPolicy: RequireDualStack",
            ("IPv6", "IPv4"),
        ),
        ("clusterIP: None, selector: {app: web}", ("IPv4",)),
        ("clusterIP: None", ("IPv4", "IPv6")),
        ("clusterIP: None, ipFamilyPolicy: SingleStack", ("IPv4",)),
    ],
)
def test_families_are_defaulted_as_the_api_server_does(
    spec: str, families: tuple[str, ...], read: Callable[..., Manifests]
) -> None:
    manifests = read(service(spec))
    assert manifests.problems == ()
    assert manifests.services["default/web"].families() == families


def test_what_nobody_need_reach_has_both_families_on_any_machine(
    read: Callable[..., Manifests],
) -> None:
    services = read(service("clusterIP: None")).services
    assert services["default/web"].families(["IPv4"]) == ("IPv4", "IPv6")


@pytest.mark.parametrize("name", ["9web", "a.b", "-a"])
def test_a_service_is_named_as_rfc_1035_has_it(
    name: str, problems: Callable[[str], list[str]]
) -> None:
    (problem,) = problems(service("ports: [{port: 80}]").replace("name: web", f"name: '{name}'", 1))
    assert problem.startswith("metadata.name: is ")
    assert problem.endswith("beginning with a letter (RFC 1035 label)")


@pytest.mark.parametrize("name", ["80", "a--b", "metrics-of-the-sidecar-proxy", "a" * 63])
def test_a_services_port_may_have_any_dns_label_as_its_name(
    name: str, problems: Callable[[str], list[str]]
) -> None:
    assert problems(service(f"ports: [{{port: 80, name: '{name}'}}]")) == []


@pytest.mark.parametrize("name", ["Http", "a_b", "a.b", "-a", "a" * 64])
def test_a_services_port_of_another_name_is_refused(
    name: str, problems: Callable[[str], list[str]]
) -> None:
    (problem,) = problems(service(f"ports: [{{port: 80, name: '{name}'}}]"))
    assert problem.startswith("spec.ports[0].name: is ")
    assert problem.endswith("(RFC 1123 label)")


def test_ports_of_two_transports_may_share_a_number(read: Callable[..., Manifests]) -> None:
    ports = "{port: 53, name: a}, {port: 53, name: b, protocol: UDP}"
    assert read(service(f"ports: [{ports}]")).problems == ()


def test_a_set_of_manifests_can_be_written_as_json(read: Callable[..., Manifests]) -> None:
    manifests = read(service("ports: [{port: 80}]"))
    assert msgspec.json.decode(msgspec.json.encode(manifests), type=Manifests) == manifests
