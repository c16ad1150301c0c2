"""Objects as the Kubernetes API sends them become values of the mesh, each by itself.

Only the fields that troth uses are looked at. The API server has validated them, but not by today's
rules if they are old, and a field may stand there as null; so nothing is relied on.
"""

from __future__ import annotations

import re
from functools import lru_cache
from sys import intern
from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.cluster.checks import Checks, is_port
from troth.cluster.contract import MIRROR_ANNOTATION
from troth.cluster.service_limits import within_limits
from troth.cluster.world import (
    ClusterService,
    EndpointSlice,
    Family,
    NodeTopology,
    SliceEndpoint,
)
from troth.kube import wire
from troth.kube.decoding import decode
from troth.kube.resource import Item, make_item, misfit, read_header
from troth.mesh.model import (
    CAPTURED_ANNOTATION,
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


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
    """A v1 Service; of no interest if it has no endpoints or if kube-proxy isn't to handle it."""
    return _read(raw, "Service", wire.ServiceObject, _service)


def read_endpoint_slice(raw: msgspec.Raw) -> Item[EndpointSlice]:
    """A discovery.k8s.io/v1 EndpointSlice; of no interest if no Service's."""
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
        header = read_header(raw, kind)
        checks = Checks(kind, header)
        checks.refuse(*misfit(error))
        return make_item(header, problems=checks.problems)
    checks = Checks(kind, sent.metadata)
    value = convert(checks, sent)
    return make_item(
        sent.metadata, value=None if checks.refused else value, problems=checks.problems
    )


def _namespace(_: Checks, sent: wire.Object) -> Namespace:
    return Namespace(name=sent.metadata.name, labels=sent.metadata.labels or {})


def _node(_: Checks, sent: wire.Object) -> NodeTopology:
    labels = sent.metadata.labels or {}
    return NodeTopology(name=sent.metadata.name, zone=labels.get(_ZONE_LABEL, ""))


@lru_cache(maxsize=256)
def _plaintext(text: str) -> Ports:
    """What the annotation says; what is none of an agent's says that there is nothing."""
    return Ports.parse(text) or NO_PORTS


def _pod(checks: Checks, sent: wire.PodObject) -> Pod:
    metadata, spec, status = sent.metadata, sent.spec, sent.status
    phase = status.phase or PodPhase.PENDING
    host_network = bool(spec.host_network)
    annotations = metadata.annotations or {}
    annotated = annotations.get(CAPTURED_ANNOTATION) == "true"
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
        addresses=() if phase.is_final else _pod_addresses(checks, status),
        ports=tuple(_container_ports(checks, spec)),
        plaintext=_plaintext(annotations.get(PLAINTEXT_ANNOTATION, "")),
        captured=annotated and not host_network and not phase.is_final,
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


@lru_cache(maxsize=64)
def _labels(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Replicas have the same, and in a list they follow each other."""
    return {key: intern(value) for key, value in items}


def _static_uid(annotations: Mapping[str, str]) -> str:
    """The UID of the static pod that this one mirrors; empty if it is none.

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
    """What app containers and sidecars (init containers that go on running) declare."""
    sidecars = [each for each in spec.init_containers or () if each.restart_policy == "Always"]
    for container in (*(spec.containers or ()), *sidecars):
        for port in container.ports or ():
            yield _container_port(
                checks.port(port.container_port, "spec.containers.ports.containerPort"),
                port.name or "",
                port.protocol or Protocol.TCP,
            )


@lru_cache(maxsize=1024)
def _container_port(number: int, name: str, protocol: Protocol) -> ContainerPort:
    """Thousands of pods have the same few ports."""
    return ContainerPort(number=number, name=name, protocol=protocol)


def _owner(metadata: wire.Metadata) -> str:
    """What a person deployed: not the ReplicaSet of a Deployment nor the Job of a CronJob."""
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
    """Addresses that kube-proxy takes for the Service's wherever it meets them."""
    status = sent.status.load_balancer
    if status is None or sent.spec.load_balancer_source_ranges:
        return  # left to kube-proxy, which knows whom to let in
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
            # Further addresses have no meaning: kube-proxy passes over them, too.
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
        # A condition that isn't said means ready, serving, and not terminating.
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
    """Port numbers by name and protocol; a port without a number would mean any, and is none.

    The API server takes any number there. Refused, one would leave the slice as it was before.
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
