"""Shared by the builders of Envoy's resources: names, small constructors, TCP keepalive."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, config_source_pb2, socket_option_pb2
from google.protobuf import any_pb2, wrappers_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.sockets import Keepalive

INTERNAL_OUTBOUND = "outbound"
"""The internal listener, and its cluster."""

RESET = "reset"
"""The listener that resets all connections, and its cluster."""

ALONE = wrappers_pb2.BoolValue(value=False)
"""``Listener.enable_reuse_port`` in pods: a process of root there must not share Envoy's ports."""


def listener_name(role: str, uid: str) -> str:
    """The listener of pod ``uid`` for ``role``; its counters have this name, too."""
    return f"{role}|{uid}"


def cluster_name(uid: str, role: str) -> str:
    """The cluster of pod ``uid`` for ``role``: ``app``, ``plain`` or ``tunnel``."""
    return f"{uid}|{role}"


def service_cluster_name(address: str, port: int) -> str:
    """The cluster of a service's virtual IP and port."""
    return f"svc|[{address}]:{port}" if ":" in address else f"svc|{address}:{port}"


Message = Any
"""A protobuf message; the generated classes have no types."""


def pack(message: Message) -> any_pb2.Any:
    """Wrap ``message`` as an Any, byte for byte the same for equal messages."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def socket_address(address: str, port: int, *, netns: str = "") -> Message:
    """An address, possibly in another network namespace (Envoy 1.35 and later)."""
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(
            address=address,
            port_value=port,
            network_namespace_filepath=netns,
        )
    )


def mark_option(mark: int) -> Message:
    """SO_MARK on a socket before it is bound."""
    sol_socket, so_mark = 1, 36
    return socket_option_pb2.SocketOption(
        description="troth's own traffic",
        level=sol_socket,
        name=so_mark,
        int_value=mark,
        state=socket_option_pb2.SocketOption.STATE_PREBIND,
    )


def ads() -> Message:
    """The config source "the ADS stream"."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.ApiVersion.V3,
    )


def keeping_alive(resources: Iterable[Message], keepalive: Keepalive) -> Iterator[Message]:
    """The same listeners and clusters, with TCP keepalive."""
    for resource in resources:
        if isinstance(resource, cluster_pb2.Cluster):
            options = resource.upstream_connection_options.tcp_keepalive
            options.keepalive_time.value = keepalive.idle
            options.keepalive_interval.value = keepalive.interval
            options.keepalive_probes.value = keepalive.count
        else:  # accepted sockets inherit the listening socket's options
            resource.socket_options.extend(_options(keepalive))
        yield resource


def _options(keepalive: Keepalive) -> Iterator[Message]:
    for name, level, option, value in (
        ("SO_KEEPALIVE", socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ("TCP_KEEPIDLE", socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive.idle),
        ("TCP_KEEPINTVL", socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keepalive.interval),
        ("TCP_KEEPCNT", socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.count),
    ):
        yield socket_option_pb2.SocketOption(
            description=name,
            level=level,
            name=option,
            int_value=value,
            state=socket_option_pb2.SocketOption.STATE_PREBIND,
        )
