"""TCP keepalive on every socket that Envoy has in a pod."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import socket_option_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth._keepalive import Keepalive
    from troth.envoy.proto import Message


def keeping_alive(resources: Iterable[Message], keepalive: Keepalive) -> Iterator[Message]:
    """Listeners and clusters, made to ask so whether the other end is still there."""
    for resource in resources:
        if isinstance(resource, cluster_pb2.Cluster):
            options = resource.upstream_connection_options.tcp_keepalive
            options.keepalive_time.value = keepalive.idle
            options.keepalive_interval.value = keepalive.interval
            options.keepalive_probes.value = keepalive.count
        else:  # sockets have what the one has that accepts them
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
