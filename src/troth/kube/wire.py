"""What the Kubernetes API sends, as far as troth looks at it.

Types are named as in the API. Every field that the API leaves out, or sends as null, when it is
empty may be None.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from troth.mesh.model import PodPhase, Protocol


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is sent; unknown fields are passed over."""


class Owner(_Wire, frozen=True):
    """metav1 OwnerReference."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Header(_Wire, frozen=True):
    """What every object has."""

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


class Headed(_Wire, frozen=True):
    """Any object, its metadata alone."""

    metadata: Header


class Object(_Wire, frozen=True):
    """An object of which only the metadata matters."""

    metadata: Metadata


class ContainerPortFields(_Wire, frozen=True):
    """core/v1 ContainerPort."""

    container_port: int
    name: str | None = None
    protocol: Protocol | None = None


class ContainerFields(_Wire, frozen=True):
    """core/v1 Container."""

    ports: list[ContainerPortFields] | None = None


class InitContainer(ContainerFields, frozen=True):
    """core/v1 Container, as an init container."""

    restart_policy: str | None = None


class PodSpec(_Wire, frozen=True):
    """core/v1 PodSpec."""

    node_name: str | None = None
    service_account_name: str | None = None
    host_network: bool | None = None
    containers: list[ContainerFields] | None = None
    init_containers: list[InitContainer] | None = None


class PodCondition(_Wire, frozen=True):
    """core/v1 PodCondition."""

    type: str
    status: str


class PodIp(_Wire, frozen=True):
    """core/v1 PodIP."""

    ip: str = ""


class PodStatusFields(_Wire, frozen=True):
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


class ServicePortFields(_Wire, frozen=True):
    """core/v1 ServicePort."""

    port: int
    name: str | None = None
    protocol: Protocol | None = None


class ServiceSpecFields(_Wire, frozen=True):
    """core/v1 ServiceSpec."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePortFields] | None = None
    internal_traffic_policy: str | None = None
    session_affinity: str | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None


class LoadBalancerIngress(_Wire, frozen=True):
    """core/v1 LoadBalancerIngress."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(_Wire, frozen=True):
    """core/v1 LoadBalancerStatus."""

    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(_Wire, frozen=True):
    """core/v1 ServiceStatus."""

    load_balancer: LoadBalancerStatus | None = None


class ServiceObject(Object, frozen=True):
    """core/v1 Service."""

    spec: ServiceSpecFields
    status: ServiceStatus = ServiceStatus()


class Conditions(_Wire, frozen=True):
    """discovery.k8s.io/v1 EndpointConditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(_Wire, frozen=True):
    """discovery.k8s.io/v1 ForZone and ForNode."""

    name: str = ""


class Hints(_Wire, frozen=True):
    """discovery.k8s.io/v1 EndpointHints."""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class EndpointFields(_Wire, frozen=True):
    """discovery.k8s.io/v1 Endpoint."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    hints: Hints | None = None


class SlicePort(_Wire, frozen=True):
    """discovery.k8s.io/v1 EndpointPort."""

    name: str | None = None
    protocol: Protocol | None = None
    port: int | None = None


class EndpointSliceObject(Object, frozen=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    address_type: str
    endpoints: list[EndpointFields] | None = None
    ports: list[SlicePort] | None = None
