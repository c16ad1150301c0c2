"""The objects of a mesh as immutable values, whether from files or from a cluster.

Field names follow the Kubernetes API where it has them. Addresses are plain text in canonical
form (RFC 5952 for IPv6), because every consumer needs text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Self

import msgspec

from troth.identity.spiffe import SpiffeId, TrustDomain

_NONE: frozenset[int] = frozenset()  # one for all: an empty set takes as much as a small one
_NUMBERS = r"\d{1,5}(?:,\d{1,5})*"
_TEXT = re.compile(rf"(?P<all>all)(?: but (?P<but>{_NUMBERS}))?|(?P<only>{_NUMBERS})?")
_LAST = 65535
_MOST = 256
"""A text with more ports is hostile: each port is an entry in every node's Envoy."""


class Ports(msgspec.Struct, frozen=True, gc=False):
    """Some of a pod's TCP ports.

    Attributes:
        usual: Whether it contains the ports that ``exceptions`` doesn't name.
        exceptions: The ports for which the opposite is true.
    """

    usual: bool = False
    exceptions: frozenset[int] = _NONE

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The inverse of `str`; None if ``text`` can't be its result."""
        match = _TEXT.fullmatch(text)
        if match is None:
            return None
        listed = match["but"] or match["only"] or ""
        numbers = frozenset(int(each) for each in listed.split(",") if each)
        if len(numbers) > _MOST or any(not 0 < number <= _LAST for number in numbers):
            return None
        return cls(match["all"] is not None, numbers or _NONE)

    def __str__(self) -> str:
        numbers = ",".join(map(str, sorted(self.exceptions)))
        if not self.usual:
            return numbers
        return f"all but {numbers}" if numbers else "all"

    def __contains__(self, port: int) -> bool:
        return self.usual is not (port in self.exceptions)

    def __bool__(self) -> bool:
        return self.usual or bool(self.exceptions)

    def __invert__(self) -> Self:
        return type(self)(not self.usual, self.exceptions)

    def __and__(self, other: Ports) -> Ports:
        usual = self.usual and other.usual
        named = self.exceptions | other.exceptions
        return Ports(
            usual,
            frozenset(n for n in named if (n in self and n in other) is not usual) or _NONE,
        )

    def __or__(self, other: Ports) -> Ports:
        return ~(~self & ~other)


NO_PORTS = Ports()
ALL_PORTS = Ports(usual=True)


MESH_LABEL = "troth.dev/mesh"
"""On a Namespace ``enabled`` puts its pods in the mesh; on a pod ``disabled`` keeps it out."""

CAPTURED_ANNOTATION = "troth.dev/captured"
"""Set to ``true`` on a pod by its node's agent while its traffic goes through the node's Envoy."""

CAPTURED_AT_ANNOTATION = "troth.dev/captured-at"
"""Set along with it to the pod's addresses, with commas between them. When the pod has others, in a
new sandbox that its node's agent may not have captured, the mark is worth nothing."""

PLAINTEXT_ANNOTATION = "troth.dev/plaintext"
"""Set on a pod by its node's agent while others in the mesh may send it plaintext: the ports, as
text of `Ports`. Whether they do is up to the policies."""


class Protocol(StrEnum):
    """A port's transport, as ``ContainerPort.protocol`` and ``ServicePort.protocol`` have it."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """A Kubernetes Namespace: the unit that opts in to the mesh."""

    name: str
    labels: Mapping[str, str] = {}

    @property
    def in_mesh(self) -> bool:
        """Whether its pods are in the mesh unless they opt out."""
        return self.labels.get(MESH_LABEL) == "enabled"


class ContainerPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A port that a container declares (``containers[].ports[]``)."""

    number: int
    name: str = ""
    protocol: Protocol = Protocol.TCP


class PodPhase(StrEnum):
    """A pod's phase (``PodStatus.phase``)."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"

    @property
    def is_final(self) -> bool:
        """Whether all its containers have ended for good."""
        return self in {PodPhase.SUCCEEDED, PodPhase.FAILED}


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod as the mesh sees it.

    Attributes:
        uid: Unique; a pod recreated under the same name has another.
        owner: The Deployment (or other controller) it belongs to, empty for a bare pod.
        node: The node it is bound to.
        addresses: Its IPs, the primary one first; empty until it has some.
        ports: The ports that its containers declare.
        probed: Ports that its kubelet connects to, for probes and lifecycle hooks.
        captured: Its traffic goes through the node's Envoy, so others may use the tunnel to it.
        captured_at: The addresses of the sandbox that its node's agent says this of; None if it
            doesn't, empty if it doesn't say of which (as agents did before that was said).
        plaintext: The ports that accept plaintext from pods of the mesh, according to its node.
        ready: Services may send it connections.
        terminating: Its deletion has begun.
        phase: Its phase.
        host_network: It shares its node's network namespace and addresses, and can't be captured.
        started: When its kubelet acknowledged it (``PodStatus.startTime``).
        kubelet_uid: Its UID in the kubelet if different from ``uid``, as for a static pod, which
            the API has only as a mirror pod.
    """

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str] = {}
    service_account: str = "default"
    owner: str = ""
    node: str = ""
    addresses: tuple[str, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    probed: frozenset[int] = frozenset()
    captured: bool = False
    captured_at: tuple[str, ...] | None = None
    plaintext: Ports = NO_PORTS
    ready: bool = False
    terminating: bool = False
    phase: PodPhase = PodPhase.RUNNING
    host_network: bool = False
    started: datetime | None = None
    kubelet_uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def workload(self) -> str:
        """``NAMESPACE/NAME`` of what was deployed: the owner, or the pod itself."""
        return f"{self.namespace}/{self.owner or self.name}"

    def spiffe_id(self, trust_domain: TrustDomain) -> SpiffeId:
        """The identity of its service account in ``trust_domain``."""
        return SpiffeId.for_service_account(trust_domain, self.namespace, self.service_account)


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """One destination of a service's connections."""

    address: str
    port: int


class ServicePort(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a Service, with its endpoints.

    Attributes:
        endpoints: Destinations of connections to its cluster IPs.
        external_endpoints: Destinations of connections to its other addresses, if it has any.
    """

    number: int
    name: str = ""
    protocol: Protocol = Protocol.TCP
    endpoints: tuple[Endpoint, ...] = ()
    external_endpoints: tuple[Endpoint, ...] = ()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A Kubernetes Service: virtual IPs (none for a headless one) and balanced ports.

    Attributes:
        load_balancer_ips: Addresses of its load balancer that connections from inside the cluster
            bypass (``status.loadBalancer.ingress``, ``ipMode: VIP``).
        external_ips: ``spec.externalIPs``.
        client_ip_affinity: A client IP goes to the same endpoint as long as that is usable
            (``sessionAffinity: ClientIP``, without its timeout); otherwise each connection is
            balanced separately.
    """

    namespace: str
    name: str
    cluster_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    client_ip_affinity: bool = False

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class EnvoyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node's Envoy: whether it is connected, how often it restarted, what it rejected."""

    connected: bool
    restarts: int
    refused: tuple[str, ...] = ()
