"""Converts objects of the Kubernetes API, each by itself, into values of the mesh.

Only the fields that troth uses are read. The API server has validated them, but old objects by old
rules, and a field may be null; so nothing is taken for granted.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from socket import AF_INET6, inet_ntop, inet_pton
from sys import intern
from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.cluster.contract import MIRROR_ANNOTATION
from troth.cluster.world import (
    ClusterService,
    EndpointSlice,
    Family,
    NodeTopology,
    SliceEndpoint,
)
from troth.fields import Report
from troth.kube import wire
from troth.kube.resource import Item, make_item, misfit, read_header, subject_of
from troth.kube.wire import decode
from troth.mesh.model import (
    CAPTURED_ANNOTATION,
    CAPTURED_AT_ANNOTATION,
    NO_PORTS,
    PLAINTEXT_ANNOTATION,
    ContainerPort,
    Namespace,
    Pod,
    PodPhase,
    Ports,
    Protocol,
    ServicePort,
)
from troth.policy.model import API_VERSIONS, KIND, PeerAuthentication
from troth.policy.parse import parse_peer_authentication
from troth.syntax import NAME, NAMESPACE, Rule, described, plain_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from troth.syntax import Flaw

T = TypeVar("T")
W = TypeVar("W", bound=wire.Object)

_CONFIG_HASH = "kubernetes.io/config.hash"
_HASH = re.compile(r"[0-9a-f]{32}")
_ZONE_LABEL = "topology.kubernetes.io/zone"
_SERVICE_NAME_LABEL = "kubernetes.io/service-name"
_OTHER_PROXY_LABEL = "service.kubernetes.io/service-proxy-name"
_TEMPLATE_HASH_LABEL = "pod-template-hash"
_NOWHERE: frozenset[str] = frozenset()  # one for all: an empty set takes as much as a small one
_CRON_SUFFIX = re.compile(r"-\d{8,}")

# The canonical form of an IPv4 address, which nearly every address has.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")

# UIDs become part of the names of Envoy's resources and of paths of cgroups.
_UID = Rule(
    pattern=re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"),
    longest=128,
    wanted="let the API server choose it (RFC 4122 UUID)",
)

MOST_PORTS = 1024
"""TCP ports of a Service."""

MOST_PAIRS = 256
"""Pairs of an address other than the cluster IPs and a TCP port."""


def read_namespace(raw: msgspec.Raw) -> Item[Namespace]:
    """A v1 Namespace."""
    return _read(raw, "Namespace", wire.Object, _namespace)


def read_node(raw: msgspec.Raw) -> Item[NodeTopology]:
    """A v1 Node."""
    return _read(raw, "Node", wire.Object, _node)


def read_pod(raw: msgspec.Raw) -> Item[Pod]:
    """A v1 Pod.

    A pod that has ended has no addresses: its node may have given them to another one.
    """
    return _read(raw, "Pod", wire.PodObject, _pod)


def read_service(raw: msgspec.Raw) -> Item[ClusterService]:
    """A v1 Service; None if it has no endpoints, or another proxy than kube-proxy handles it."""
    return _read(raw, "Service", wire.ServiceObject, _service)


def read_endpoint_slice(raw: msgspec.Raw) -> Item[EndpointSlice]:
    """A discovery.k8s.io/v1 EndpointSlice; None if it doesn't belong to a Service."""
    return _read(raw, "EndpointSlice", wire.EndpointSliceObject, _endpoint_slice)


def read_policy(raw: msgspec.Raw) -> Item[PeerAuthentication]:
    """A security.istio.io PeerAuthentication."""
    header = read_header(raw, KIND)
    document = decode(raw, dict[str, object])
    # API servers leave apiVersion and kind out of the items of typed lists.
    policy, problems = parse_peer_authentication(
        {"apiVersion": API_VERSIONS[0], "kind": KIND, **document}, stored=True
    )
    return make_item(header, value=policy, problems=problems)


def _read(
    raw: msgspec.Raw, kind: str, shape: type[W], convert: Callable[[Checks, W], T | None]
) -> Item[T]:
    try:
        sent = decode(raw, shape)
    except msgspec.DecodeError as error:
        return misfit(read_header(raw, kind), kind, error)
    checks = Checks(kind, sent.metadata)
    value = convert(checks, sent)
    return make_item(
        sent.metadata, value=None if checks.errors else value, problems=checks.problems
    )


def _namespace(_: Checks, sent: wire.Object) -> Namespace:
    return Namespace(name=sent.metadata.name, labels=sent.metadata.labels or {})


def _node(_: Checks, sent: wire.Object) -> NodeTopology:
    labels = sent.metadata.labels or {}
    return NodeTopology(name=sent.metadata.name, zone=labels.get(_ZONE_LABEL, ""))


@lru_cache(maxsize=256)
def _plaintext(text: str) -> Ports:
    """The ports in the annotation; none if no agent wrote it."""
    return Ports.parse(text) or NO_PORTS


def _pod(checks: Checks, sent: wire.PodObject) -> Pod:
    metadata, spec, status = sent.metadata, sent.spec, sent.status
    phase = status.phase or PodPhase.PENDING
    host_network = bool(spec.host_network)
    annotations = metadata.annotations or {}
    addresses = () if phase.is_final else _pod_addresses(checks, status)
    captured_at = _captured_at(annotations, addresses)
    return Pod(
        uid=checks.uid(metadata.uid),
        namespace=intern(metadata.namespace),
        name=metadata.name,
        labels=_labels(tuple((metadata.labels or {}).items())),
        service_account=intern(
            checks.name(spec.service_account_name or "default", "spec.serviceAccountName")
        ),
        owner=_owner(metadata),
        node=intern(spec.node_name or ""),
        addresses=addresses,
        ports=tuple(_container_ports(checks, spec)),
        probed=_shared(frozenset(_probed_ports(spec))),
        plaintext=_plaintext(annotations.get(PLAINTEXT_ANNOTATION, "")),
        captured=captured_at in {(), addresses} and not host_network and not phase.is_final,
        captured_at=captured_at,
        ready=any(
            condition.type == "Ready" and condition.status == "True"
            for condition in status.conditions or ()
        ),
        terminating=metadata.deletion_timestamp is not None,
        phase=phase,
        host_network=host_network,
        started=status.start_time,
        kubelet_uid=_static_uid(annotations),
    )


def _captured_at(
    annotations: Mapping[str, str], addresses: tuple[str, ...]
) -> tuple[str, ...] | None:
    if annotations.get(CAPTURED_ANNOTATION) != "true":
        return None
    text = annotations.get(CAPTURED_AT_ANNOTATION, "")
    # Nearly always they are the same, and need no memory of their own.
    return addresses if text == ",".join(addresses) else tuple(filter(None, text.split(",")))


@lru_cache(maxsize=64)
def _labels(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Cached: replicas have the same labels and are adjacent in lists."""
    return {key: intern(value) for key, value in items}


def _static_uid(annotations: Mapping[str, str]) -> str:
    """The UID of the static pod that this one mirrors; empty if it isn't a mirror pod.

    Anybody may write annotations, but a hash is never the UID of another pod of the API.
    """
    uid = annotations.get(_CONFIG_HASH, "") if MIRROR_ANNOTATION in annotations else ""
    return uid if _HASH.fullmatch(uid) else ""


def _pod_addresses(checks: Checks, status: wire.PodStatusFields) -> tuple[str, ...]:
    texts = [each.ip for each in status.pod_ips or ()] or [status.pod_ip or ""]
    return tuple(
        checks.address(text, f"status.podIPs[{index}].ip")
        for index, text in enumerate(texts)
        if text
    )


def _container_ports(checks: Checks, spec: wire.PodSpec) -> Iterable[ContainerPort]:
    """The ports of app containers and sidecars (init containers that keep running)."""
    sidecars = [each for each in spec.init_containers or () if each.restart_policy == "Always"]
    for container in (*(spec.containers or ()), *sidecars):
        for port in container.ports or ():
            yield _container_port(
                checks.port(port.container_port, "spec.containers.ports.containerPort"),
                port.name or "",
                port.protocol or Protocol.TCP,
            )


def _probed_ports(spec: wire.PodSpec) -> Iterator[int]:
    """Ports that the kubelet connects to; names refer to the container's own ports."""
    for container in (*(spec.containers or ()), *(spec.init_containers or ())):
        hooks = container.lifecycle or wire.Lifecycle()
        for handler in (
            *(container.readiness_probe, container.liveness_probe, container.startup_probe),
            *(hooks.post_start, hooks.pre_stop),
        ):
            if handler is not None:
                for place in (handler.http_get, handler.tcp_socket, handler.grpc):
                    if place is not None and not place.host:
                        yield from _numbers(place.port, container)


def _numbers(port: int | str, container: wire.ContainerFields) -> Iterator[int]:
    if isinstance(port, int):
        yield port
    for known in container.ports or ():
        if known.name == port:
            yield known.container_port


@lru_cache(maxsize=256)
def _shared(ports: frozenset[int]) -> frozenset[int]:
    """Cached: thousands of pods are probed at the same few ports."""
    return frozenset(filter(is_port, ports))


@lru_cache(maxsize=1024)
def _container_port(number: int, name: str, protocol: Protocol) -> ContainerPort:
    """Cached: thousands of pods have the same few ports."""
    return ContainerPort(number=number, name=name, protocol=protocol)


def _owner(metadata: wire.Metadata) -> str:
    """The top-level owner: a Deployment, not its ReplicaSet; a CronJob, not its Job."""
    for owner in metadata.owner_references or ():
        if not owner.controller:
            continue
        template = (metadata.labels or {}).get(_TEMPLATE_HASH_LABEL)
        if owner.kind == "ReplicaSet" and template:
            return owner.name.removesuffix(f"-{template}")
        if owner.kind == "Job":
            name, dash, number = owner.name.rpartition("-")
            return name if name and _CRON_SUFFIX.fullmatch(dash + number) else owner.name
        return owner.name
    return ""


def _service(checks: Checks, sent: wire.ServiceObject) -> ClusterService | None:
    metadata, spec = sent.metadata, sent.spec
    if spec.type == "ExternalName" or _OTHER_PROXY_LABEL in (metadata.labels or {}):
        return None
    addresses = spec.cluster_ips or [spec.cluster_ip or ""]
    service = ClusterService(
        namespace=metadata.namespace,
        name=metadata.name,
        cluster_ips=tuple(
            checks.address(text, f"spec.clusterIPs[{index}]")
            for index, text in enumerate(addresses)
            if text not in ("", "None")
        ),
        load_balancer_ips=tuple(_load_balancer_ips(checks, sent)),
        external_ips=tuple(
            checks.address(text, f"spec.externalIPs[{index}]")
            for index, text in enumerate(spec.external_ips or ())
        ),
        ports=tuple(
            ServicePort(
                number=checks.port(port.port, f"spec.ports[{index}].port"),
                name=port.name or "",
                protocol=port.protocol or Protocol.TCP,
            )
            for index, port in enumerate(spec.ports or ())
        ),
        only_own_node=spec.internal_traffic_policy == "Local",
        client_ip_affinity=spec.session_affinity == "ClientIP",
    )
    return within_limits(checks, service)


def _load_balancer_ips(checks: Checks, sent: wire.ServiceObject) -> Iterable[str]:
    """Addresses that kube-proxy handles as the Service's (``ipMode: VIP``)."""
    status = sent.status.load_balancer
    if status is None or sent.spec.load_balancer_source_ranges:
        return  # left to kube-proxy, which knows the allowed source ranges
    for index, ingress in enumerate(status.ingress or ()):
        if ingress.ip and ingress.ip_mode in (None, "VIP"):
            yield checks.address(ingress.ip, f"status.loadBalancer.ingress[{index}].ip")


def _endpoint_slice(checks: Checks, sent: wire.EndpointSliceObject) -> EndpointSlice | None:
    service = (sent.metadata.labels or {}).get(_SERVICE_NAME_LABEL)
    if not service or sent.address_type not in set(Family):
        return None
    return EndpointSlice(
        service=f"{sent.metadata.namespace}/{service}",
        family=Family(sent.address_type),
        ports=_slice_ports(checks, sent.ports or ()),
        endpoints=tuple(
            # Further addresses have no meaning: kube-proxy ignores them, too.
            _endpoint(checks.address(each.addresses[0], f"endpoints[{index}].addresses[0]"), each)
            for index, each in enumerate(sent.endpoints or ())
            if each.addresses
        ),
    )


def _endpoint(address: str, sent: wire.EndpointFields) -> SliceEndpoint:
    conditions = sent.conditions or wire.Conditions()
    hints = sent.hints or wire.Hints()
    return SliceEndpoint(
        address=address,
        node=intern(sent.node_name or ""),
        # Missing conditions mean ready, serving, and not terminating.
        ready=conditions.ready is not False,
        serving=conditions.serving is not False,
        terminating=bool(conditions.terminating),
        for_zones=_places(hints.for_zones),
        for_nodes=_places(hints.for_nodes),
    )


def _places(hints: Iterable[wire.Named] | None) -> frozenset[str]:
    return frozenset(each.name for each in hints) if hints else _NOWHERE


def _slice_ports(
    checks: Checks, ports: Iterable[wire.SlicePort]
) -> Mapping[tuple[str, Protocol], int]:
    """Port numbers by name and protocol; a port without a number would mean all, and is dropped.

    The API server accepts any number. Refusing one would keep the slice's previous version.
    """
    found: dict[tuple[str, Protocol], int] = {}
    for index, port in enumerate(ports):
        if port.port is None:
            continue
        if is_port(port.port):
            found[port.name or "", port.protocol or Protocol.TCP] = port.port
        else:
            wanted = "write a port, 1 to 65535"
            checks.warn(f"ports[{index}].port", f"is {port.port}, so it leads nowhere", wanted)
    return found


class Checks(Report):
    """Checks values with their own syntax, and reports what is wrong with them."""

    def __init__(self, kind: str, header: wire.Header) -> None:
        super().__init__(subject_of(kind, header))
        rule = NAMESPACE if kind == "Namespace" else NAME
        self.name(header.name, "metadata.name", rule)
        if header.namespace:
            self.name(header.namespace, "metadata.namespace", NAMESPACE)

    def name(self, text: str, path: str, rule: Rule = NAME) -> str:
        """A name, by default of the most liberal syntax."""
        if flaw := rule.flaw(text):
            self.error(path, *flaw)
        return text

    def uid(self, text: str) -> str:
        """An object's UID."""
        return self.name(text, "metadata.uid", _UID)

    def address(self, text: str, path: str) -> str:
        """An IP in canonical form; empty if it isn't one. Equal ones are the same object."""
        if _IPV4.fullmatch(text):
            return intern(text)
        flaw: Flaw = (f"is {described(text)}", "write an IP address")
        plain = plain_address(text)
        if plain != text:
            return self.address(plain, path)
        if "%" in text:
            self.error(path, *flaw)
            return ""
        try:
            return intern(_canonical(text))
        except ValueError:
            self.error(path, *flaw)
            return ""

    def port(self, number: int, path: str) -> int:
        """A port number."""
        if not is_port(number):
            self.error(path, f"is {described(number)}", "write a port, 1 to 65535")
        return number


def is_port(number: int) -> bool:
    """Whether a port may have that number."""
    return 1 <= number <= 65535  # noqa: PLR2004 - the range of a port


def _canonical(text: str) -> str:
    """An IPv6 address as `ipaddress` writes it; mostly without `ipaddress`, which is slow."""
    try:
        written = inet_ntop(AF_INET6, inet_pton(AF_INET6, text))
    except OSError as error:
        raise ValueError(text) from error
    if "." not in written:
        return written
    address = IPv6Address(text)
    return str(address.ipv4_mapped or address)  # kube-proxy treats these as the same address


def within_limits(checks: Checks, service: ClusterService) -> ClusterService:
    """A Service cut down to the mesh's limits, with warnings about what is left out.

    Each TCP port at each address of a Service is a separate cluster in every node's Envoy, so a
    small Service with 200 addresses and 100 ports would be 20,000 clusters.

    The cut is deterministic: the highest ports and the last addresses are dropped. An address is
    kept on all ports or on none; a load balancer's come first, because only its controller can
    write them.
    """
    known = sorted({port.number for port in service.ports if port.protocol is Protocol.TCP})
    if not known:
        return service
    numbers = known[:MOST_PORTS]
    ports = service.ports
    if len(numbers) < len(known):
        ports = tuple(
            port
            for port in ports
            if port.protocol is not Protocol.TCP or port.number <= numbers[-1]
        )
        checks.warn(
            "spec.ports",
            f"has {len(known)} TCP ports, and pods of the mesh reach none above {numbers[-1]}",
            f"give a Service no more than {MOST_PORTS}",
        )
    room = MOST_PAIRS // len(numbers)
    balancer = _first(checks, service.load_balancer_ips, room, "status.loadBalancer.ingress")
    external = _first(checks, service.external_ips, room - len(balancer), "spec.externalIPs")
    return msgspec.structs.replace(
        service, ports=ports, load_balancer_ips=balancer, external_ips=external
    )


def _first(checks: Checks, addresses: tuple[str, ...], room: int, path: str) -> tuple[str, ...]:
    if len(set(addresses)) <= room:
        return addresses
    kept = tuple(sorted(set(addresses))[:room])
    checks.warn(
        path,
        f"has {len(set(addresses))} addresses, of which {len(kept)} are reached by mutual TLS and"
        " the others as they are, through kube-proxy",
        f"let addresses times TCP ports be no more than {MOST_PAIRS}, those of load balancers"
        " counted first, or divide them among several Services",
    )
    return kept
