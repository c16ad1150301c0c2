"""The objects beside pods: ConfigMap, Secret, ServiceAccount, Namespace, Service, and a policy."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import TYPE_CHECKING

from troth._syntax import Rule, described, key_path
from troth.mesh import Namespace, Protocol
from troth.policy import PeerAuthentication, parse_peer_authentication
from troth.sources import _api
from troth.sources._containers import LAST_PORT, PORT_NAME
from troth.sources._reader import Fields, Report
from troth.sources._workloads import (
    ConfigMap,
    Secret,
    ServiceAccount,
    ServicePortSpec,
    ServiceSpec,
)

if TYPE_CHECKING:
    from troth.errors import Location
    from troth.sources._yaml import Document

_DATA_KEY = Rule(
    pattern=re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]+"),
    longest=253,
    wanted="use a-z, A-Z, 0-9, '-', '_' and '.', and don't begin with '..'",
)
_SERVICE_WORDS = {
    "type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "sessionAffinity": ("None", "ClientIP"),
    "ipFamilyPolicy": ("SingleStack", "PreferDualStack", "RequireDualStack"),
}
_FAMILIES = ("IPv4", "IPv6")


class Source:
    """One object of a known kind, about to be parsed.

    Attributes:
        document: Where it stands.
        kind: Its kind.
        namespace: Its namespace, ``default`` when it names none.
        name: Its name.
        report: Where its problems go.
        stored: It is in a cluster already (see `troth.policy.parse_peer_authentication`).
        top: Its fields.
    """

    def __init__(
        self,
        document: Document,
        *,
        kind: str,
        namespace: str,
        name: str,
        report: Report,
        stored: bool = False,
    ) -> None:
        self.document = document
        self.kind = kind
        self.namespace = namespace
        self.name = name
        self.report = report
        self.stored = stored
        self.top = Fields(document.value, "", report)

    @property
    def location(self) -> Location:
        """Where the object begins."""
        return self.document.location


def parse_policy(source: Source) -> PeerAuthentication | None:
    """A security.istio.io PeerAuthentication."""
    policy, problems = parse_peer_authentication(
        source.document.value, location=source.location, stored=source.stored
    )
    for problem in problems:
        source.report.add(problem)
    return policy


def parse_namespace(source: Source) -> Namespace:
    """A v1 Namespace."""
    labels = source.top.fields("metadata").labels("labels")
    return Namespace(name=source.name, labels=labels)


def parse_service_account(source: Source) -> ServiceAccount:
    """A v1 ServiceAccount."""
    return ServiceAccount(namespace=source.namespace, name=source.name, location=source.location)


def parse_config_map(source: Source) -> ConfigMap:
    """A v1 ConfigMap."""
    data = source.top.string_map("data")
    binary = _decoded(source.top, "binaryData")
    _check_keys(source.top, "data", data)
    _check_keys(source.top, "binaryData", binary)
    for key in data.keys() & binary.keys():
        source.top.error("binaryData", f"has the key {described(key)} of data", "keep one of them")
    return ConfigMap(
        namespace=source.namespace,
        name=source.name,
        data=data,
        binary_data=binary,
        location=source.location,
    )


def parse_secret(source: Source) -> Secret:
    """A v1 Secret; ``stringData`` wins over ``data``."""
    data = _decoded(source.top, "data")
    texts = source.top.string_map("stringData", confidential=True)
    data |= {key: text.encode() for key, text in texts.items()}
    _check_keys(source.top, "data", data)
    return Secret(
        namespace=source.namespace,
        name=source.name,
        type=source.top.string("type", "Opaque"),
        data=data,
        location=source.location,
    )


def _decoded(fields: Fields, name: str) -> dict[str, bytes]:
    decoded = {}
    for key, text in fields.string_map(name, confidential=True).items():
        try:
            decoded[key] = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):  # not shown: it may be the secret itself
            path = key_path(fields.at(name), key)
            wanted = (
                "encode the value, or write it to stringData" if name == "data" else "encode it"
            )
            fields.report.error(path, "is not base64", wanted)
    return decoded


def _check_keys(fields: Fields, name: str, data: dict[str, str] | dict[str, bytes]) -> None:
    for key in data:
        if flaw := _DATA_KEY.flaw(key):
            fields.error(name, f"has a key that {flaw[0]}", flaw[1])


def parse_service(source: Source) -> ServiceSpec:
    """A v1 Service."""
    spec = source.top.fields("spec")
    spec.only(_api.SERVICE_SPEC)
    kind = _word(spec, "type", "ClusterIP")
    cluster_ips = spec.strings("clusterIPs")
    cluster_ip = spec.string("clusterIP") or next(iter(cluster_ips), "")
    for path, address in ((spec.at("clusterIP"), cluster_ip), *_indexed(spec, "clusterIPs")):
        if address not in ("", "None") and not _is_address(address):
            spec.report.error(path, f"is {described(address)}", "write an IP, None or nothing")
    if cluster_ips and cluster_ips[0] != cluster_ip:
        spec.error("clusterIPs", "does not begin with clusterIP", "let the first be the same")
    families = spec.strings("ipFamilies")
    for path, family in _indexed(spec, "ipFamilies"):
        if family not in _FAMILIES:
            spec.report.error(path, f"is {described(family)}", "write IPv4 or IPv6")
    if "sessionAffinityConfig" in spec:
        wanted = "a client stays with an endpoint as long as that is usable"
        spec.warn("sessionAffinityConfig", "has no effect", wanted)
    external_name = spec.string("externalName")
    if kind == "ExternalName" and not external_name:
        spec.missing("externalName", "write the DNS name it stands for")
    ports = tuple(_service_port(port) for port in spec.each("ports"))
    _check_ports(spec, ports, optional=kind == "ExternalName" or cluster_ip == "None")
    return ServiceSpec(
        namespace=source.namespace,
        name=source.name,
        type=kind,
        selector=spec.labels("selector"),
        cluster_ip=cluster_ip,
        cluster_ips=cluster_ips,
        ip_families=families,
        ip_family_policy=_word(spec, "ipFamilyPolicy", ""),
        ports=ports,
        publish_not_ready=spec.boolean("publishNotReadyAddresses"),
        client_ip_affinity=_word(spec, "sessionAffinity", "None") == "ClientIP",
        external_name=external_name,
        location=source.location,
    )


def _word(fields: Fields, name: str, default: str) -> str:
    value = fields.string(name, default)
    if value != default and value not in _SERVICE_WORDS[name]:
        words = ", ".join(_SERVICE_WORDS[name])
        fields.error(name, f"is {described(value)}", f"write one of {words}")
    return value


def _indexed(fields: Fields, name: str) -> list[tuple[str, str]]:
    return [
        (f"{fields.at(name)}[{index}]", text) for index, text in enumerate(fields.strings(name))
    ]


def _is_address(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _service_port(fields: Fields) -> ServicePortSpec:
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
        name=fields.string("name", rule=PORT_NAME),
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
