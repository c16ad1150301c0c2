"""The Kubernetes API's objects, with the fields that troth reads, and how their JSON is decoded.

Types are named as in the API. Every field that the API omits, or sends as null, when it is empty
may be None.

Whoever may write an object may nest its free-form parts (such as ``managedFields``) deeper than
Python recurses, and one such object must not hide all others. Then everything deeper than any field
that troth reads is cut out, without recursion, and the rest decoded.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TypeVar

import msgspec

from troth.mesh.model import PodPhase, Protocol

T = TypeVar("T")

_DEEPEST = 100

JSON_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)

_ITEMS = b'"items":['

_BETWEEN = b'},{"metadata":{'
"""The end of an item and the beginning of the next, as API servers write it. It can't be inside a
string (its quotes would be escaped), but it can be between objects that aren't items."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of an object; unknown fields are ignored."""


class Owner(Wire, frozen=True):
    """metav1 OwnerReference."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Header(Wire, frozen=True):
    """The metadata that every object has."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int | None = None

    @property
    def key(self) -> str:
        """``NAMESPACE/NAME``, or ``NAME`` for objects outside namespaces."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Metadata(Header, frozen=True):
    """metav1 ObjectMeta."""

    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: str | None = None
    owner_references: list[Owner] | None = None


class Headed(Wire, frozen=True):
    """Any object, its metadata alone."""

    metadata: Header


class Object(Wire, frozen=True):
    """An object with its metadata."""

    metadata: Metadata


class ContainerPortFields(Wire, frozen=True):
    """core/v1 ContainerPort."""

    container_port: int
    name: str | None = None
    protocol: Protocol | None = None


class Connected(Wire, frozen=True):
    """core/v1 HTTPGetAction, TCPSocketAction or GRPCAction: where the kubelet connects."""

    port: int | str = 0
    host: str | None = None


class Handler(Wire, frozen=True):
    """core/v1 Probe or LifecycleHandler, of those that connect."""

    http_get: Connected | None = None
    tcp_socket: Connected | None = None
    grpc: Connected | None = None


class Lifecycle(Wire, frozen=True):
    """core/v1 Lifecycle."""

    post_start: Handler | None = None
    pre_stop: Handler | None = None


class ContainerFields(Wire, frozen=True):
    """core/v1 Container."""

    name: str = ""
    ports: list[ContainerPortFields] | None = None
    readiness_probe: Handler | None = None
    liveness_probe: Handler | None = None
    startup_probe: Handler | None = None
    lifecycle: Lifecycle | None = None


class InitContainer(ContainerFields, frozen=True):
    """core/v1 Container, as an init container."""

    restart_policy: str | None = None


class PodSpec(Wire, frozen=True):
    """core/v1 PodSpec."""

    node_name: str | None = None
    service_account_name: str | None = None
    host_network: bool | None = None
    containers: list[ContainerFields] | None = None
    init_containers: list[InitContainer] | None = None


class PodCondition(Wire, frozen=True):
    """core/v1 PodCondition."""

    type: str
    status: str


class PodIp(Wire, frozen=True):
    """core/v1 PodIP."""

    ip: str = ""


class PodStatusFields(Wire, frozen=True):
    """core/v1 PodStatus."""

    phase: PodPhase | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[PodIp] | None = msgspec.field(default=None, name="podIPs")
    conditions: list[PodCondition] | None = None
    start_time: datetime | None = None


class PodObject(Object, frozen=True):
    """core/v1 Pod."""

    spec: PodSpec
    status: PodStatusFields = PodStatusFields()


class ServicePortFields(Wire, frozen=True):
    """core/v1 ServicePort."""

    port: int
    name: str | None = None
    protocol: Protocol | None = None


class ServiceSpecFields(Wire, frozen=True):
    """core/v1 ServiceSpec."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePortFields] | None = None
    internal_traffic_policy: str | None = None
    session_affinity: str | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None


class LoadBalancerIngress(Wire, frozen=True):
    """core/v1 LoadBalancerIngress."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(Wire, frozen=True):
    """core/v1 LoadBalancerStatus."""

    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(Wire, frozen=True):
    """core/v1 ServiceStatus."""

    load_balancer: LoadBalancerStatus | None = None


class ServiceObject(Object, frozen=True):
    """core/v1 Service."""

    spec: ServiceSpecFields
    status: ServiceStatus = ServiceStatus()


class Conditions(Wire, frozen=True):
    """discovery.k8s.io/v1 EndpointConditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(Wire, frozen=True):
    """discovery.k8s.io/v1 ForZone and ForNode."""

    name: str = ""


class Hints(Wire, frozen=True):
    """discovery.k8s.io/v1 EndpointHints."""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class EndpointFields(Wire, frozen=True):
    """discovery.k8s.io/v1 Endpoint."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None


class SlicePort(Wire, frozen=True):
    """discovery.k8s.io/v1 EndpointPort."""

    name: str | None = None
    protocol: Protocol | None = None
    port: int | None = None


class EndpointSliceObject(Object, frozen=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    address_type: str
    endpoints: list[EndpointFields] | None = None
    ports: list[SlicePort] | None = None


def decode(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Decode ``data`` as ``kind``.

    Raises:
        msgspec.DecodeError: It isn't JSON; if a msgspec.ValidationError, it isn't a ``kind``.
    """
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except RecursionError:
            return msgspec.json.decode(without_depths(bytes(data)), type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def without_depths(data: bytes, deepest: int = _DEEPEST) -> bytes:
    """Replace every list and mapping that is nested deeper than ``deepest`` by ``null``."""
    pieces: list[bytes] = []
    depth = kept_from = 0
    for token in JSON_TOKEN.finditer(data):
        match token[0]:
            case b"{" | b"[":
                depth += 1
                if depth == deepest + 1:
                    pieces += (data[kept_from : token.start()], b"null")
            case b"}" | b"]":
                if depth == deepest + 1:
                    kept_from = token.end()
                depth -= 1
    return b"".join((*pieces, data[kept_from:]))


def take_items(begun: bytearray) -> list[msgspec.Raw]:
    """Cut the complete items out of a list that is still being received.

    So a list is never in memory as a whole: the pods of a big cluster are tens of megabytes of
    JSON, and a few as troth's objects.

    The server's formatting doesn't matter: the rest, with what arrives later, is always a list of
    all other items.

    Args:
        begun: The list as far as received; it is changed.
    """
    first = begun.find(_ITEMS)
    if first < 0:
        return []
    items = []
    begin = first = first + len(_ITEMS)
    end = begun.find(_BETWEEN, begin)
    while end >= 0:
        item = _whole(bytes(begun[begin : end + 1]))
        if item is not None:
            items.append(item)
            begin = end + len(b"},")
        end = begun.find(_BETWEEN, end + 1)
    del begun[first:begin]
    return items


def _whole(text: bytes) -> msgspec.Raw | None:
    """The text, if it is one JSON value and not the beginning of one."""
    try:
        return decode(text, msgspec.Raw)
    except msgspec.DecodeError:
        return None
