"""Clusters: three for each local pod, one for each port of a service's address.

==============  ====================================================================
cluster         where its connections go
==============  ====================================================================
``UID|app``     to the pod's own app, from the client's address
``UID|plain``   out of the pod, to the original destination in plaintext
``UID|tunnel``  out of the pod, to the tunnel port at the original destination
``svc|IP:PORT`` to an endpoint of the service, through the internal listener
``outbound``    to the original destination, through the internal listener
==============  ====================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.type.metadata.v3 import metadata_pb2
from google.protobuf import duration_pb2, wrappers_pb2

from troth.envoy.limits import CONNECT_SECONDS, buffer_limit
from troth.envoy.resources import (
    INTERNAL_OUTBOUND,
    Message,
    cluster_name,
    mark_option,
    pack,
    service_cluster_name,
    socket_address,
)
from troth.envoy.tls import client_socket
from troth.mesh.ports import ENVOY_MARK, TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.mesh.addresses import ExternalPort
    from troth.mesh.model import Endpoint, Service
    from troth.mesh.view import LocalPod

_ORIGINAL_DST = "envoy.filters.listener.original_dst"
_RING_SHARES = 128
"""Per endpoint on the ring: the share of clients then varies by about a tenth."""
_LARGEST_RING = 2**23  # Envoy's limit


def pod_clusters(local: LocalPod) -> Iterator[Message]:
    """The three clusters whose sockets are in the pod's network namespace."""
    uid = local.pod.uid
    # The listeners' `original_src` sets source address and mark.
    yield _original_dst(cluster_name(uid, "app"), local, mark=None)
    yield _original_dst(cluster_name(uid, "plain"), local)
    tunnel = _original_dst(cluster_name(uid, "tunnel"), local)
    tunnel.original_dst_lb_config.upstream_port_override.value = TUNNEL_PORT
    tunnel.transport_socket.CopyFrom(client_socket(local.identity))
    yield tunnel


def service_clusters(service: Service) -> Iterator[Message]:
    """One cluster for each virtual IP and TCP port, balanced over the endpoints of its family."""
    for address in service.cluster_ips:
        for port in service.ports:
            if port.protocol == "TCP":
                yield _balanced(
                    address, port.number, port.endpoints, sticky=service.client_ip_affinity
                )


def external_cluster(port: ExternalPort) -> Message:
    """The cluster of a service's port at an address that isn't a virtual IP."""
    return _balanced(port.address, port.number, port.endpoints, sticky=port.client_ip_affinity)


def _balanced(address: str, port: int, endpoints: Iterable[Endpoint], *, sticky: bool) -> Message:
    same_family = [each for each in endpoints if (":" in each.address) == (":" in address)]
    cluster = _internal(service_cluster_name(address, port), list(map(_endpoint, same_family)))
    if sticky:
        _stick(cluster, len(same_family))
    return cluster


def _stick(cluster: Message, endpoints: int) -> None:
    """Send a client to the same endpoint as long as that exists, by hashing the client's IP.

    (The listener sets the hash's input, see `troth.envoy.filters.tcp_proxy`.)
    """
    cluster.lb_policy = cluster_pb2.Cluster.LbPolicy.RING_HASH
    # Envoy rounds up to whole shares, so each endpoint has the same number of entries whatever the
    # number of endpoints: when one goes, the others keep their clients.
    size = endpoints * _RING_SHARES - endpoints // 2
    cluster.ring_hash_lb_config.minimum_ring_size.value = max(1, min(size, _LARGEST_RING))


def outbound_cluster() -> Message:
    """The cluster of the internal listener for connections that aren't to a service."""
    return _internal(INTERNAL_OUTBOUND, [_internal_address()])


def _base(name: str) -> Message:
    unlimited = wrappers_pb2.UInt32Value(value=2**32 - 1)
    return cluster_pb2.Cluster(
        name=name,
        connect_timeout=duration_pb2.Duration(seconds=CONNECT_SECONDS),
        per_connection_buffer_limit_bytes=buffer_limit(),
        # Envoy's default of 1,024 connections suits a dimensioned proxy; here the apps set limits.
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(
            thresholds=[
                circuit_breaker_pb2.CircuitBreakers.Thresholds(
                    max_connections=unlimited,
                    max_pending_requests=unlimited,
                    max_requests=unlimited,
                )
            ]
        ),
    )


def _original_dst(name: str, local: LocalPod, *, mark: int | None = ENVOY_MARK) -> Message:
    cluster = _base(name)
    cluster.type = cluster_pb2.Cluster.DiscoveryType.ORIGINAL_DST
    cluster.lb_policy = cluster_pb2.Cluster.LbPolicy.CLUSTER_PROVIDED
    bind = address_pb2.BindConfig(
        source_address=socket_address("0.0.0.0", 0, netns=local.netns).socket_address,  # noqa: S104
        socket_options=[] if mark is None else [mark_option(mark)],
    )
    if local.has_ipv6:
        bind.extra_source_addresses.add(
            address=socket_address("::", 0, netns=local.netns).socket_address
        )
    cluster.upstream_bind_config.CopyFrom(bind)
    return cluster


def _internal(name: str, endpoints: list[Message]) -> Message:
    cluster = _base(name)
    cluster.type = cluster_pb2.Cluster.DiscoveryType.STATIC
    cluster.lb_policy = cluster_pb2.Cluster.LbPolicy.RANDOM
    cluster.load_assignment.CopyFrom(
        endpoint_pb2.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=endpoints)],
        )
    )
    cluster.transport_socket.CopyFrom(
        base_pb2.TransportSocket(
            name="internal_upstream",
            typed_config=pack(
                internal_upstream_pb2.InternalUpstreamTransport(
                    passthrough_metadata=[
                        internal_upstream_pb2.InternalUpstreamTransport.MetadataValueSource(
                            kind=metadata_pb2.MetadataKind(host=metadata_pb2.MetadataKind.Host()),
                            name=_ORIGINAL_DST,
                        )
                    ],
                    transport_socket=base_pb2.TransportSocket(
                        name="raw_buffer", typed_config=pack(raw_buffer_pb2.RawBuffer())
                    ),
                )
            ),
        )
    )
    return cluster


def _endpoint(endpoint: Endpoint) -> Message:
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    target = f"{host}:{endpoint.port}"
    address = _internal_address(target)
    address.metadata.filter_metadata[_ORIGINAL_DST].fields["local"].string_value = target
    return address


def _internal_address(endpoint_id: str = "") -> Message:
    # In place, because nesting messages copies them, and a mesh has many endpoints.
    address = endpoint_components_pb2.LbEndpoint()
    internal = address.endpoint.address.envoy_internal_address
    internal.server_listener_name = INTERNAL_OUTBOUND
    internal.endpoint_id = endpoint_id
    return address
