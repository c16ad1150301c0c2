"""How much of the node's one Envoy a pod may use, so that none can starve the others.

A pod's limit is Envoy's limit of a listener's connections, which can only be set in its runtime, in
a layer that comes over the ADS stream. A connection beyond it is accepted and closed at once,
before it costs anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from envoy.service.runtime.v3 import rtds_pb2
from google.protobuf import wrappers_pb2

from troth.envoy.accesslog import Role
from troth.envoy.resources import listener_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.envoy.resources import Message

RUNTIME_LAYER = "limits"

POD_CONNECTIONS = 4096
"""The default per kind. A proxied connection takes up to 55 kB, so one pod's of one kind take
225 MB: less than a quarter of the memory that the chart gives a node agent."""

BUFFER_BYTES = 256 * 1024
"""The size of each of Envoy's buffers for an end that doesn't read.

Envoy's own default is four times as much, without being more efficient.
"""

CONNECT_SECONDS = 10
"""Envoy's connect timeout: long enough for three retransmissions of the SYN."""

HELLO_SECONDS = 5
"""The timeout for the first message of a tunnel client, the ClientHello."""

HANDSHAKE_SECONDS = 10
"""The timeout for the rest of the handshake, in which the client proves its identity. Without it a
client that never does would hold a connection forever."""

_DESCRIPTORS_PER_CONNECTION = 4  # two at each end, if both pods are on this node
_POD_SHARE = 4
"""By default a pod's limit is at most one in this many of all connections."""

_HEAP_PERCENT = 70
"""The fraction of an agent's memory for Envoy's heap. The rest is for the agent itself, and for the
kernel's socket buffers."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What Envoy may use.

    Attributes:
        connections: How many downstream connections all pods together may have open.
        pod_connections: How many of each kind one pod may have: outbound, inbound through the
            tunnel, and inbound in plaintext.
        heap_bytes: How large its heap may grow before it accepts no new connections; None for no
            limit.
    """

    connections: int
    pod_connections: int = POD_CONNECTIONS
    heap_bytes: int | None = None

    @classmethod
    def of(
        cls, *, descriptors: int, pod_connections: int | None = None, memory: int | None = None
    ) -> Limits:
        """The limits that follow from those of the process.

        Args:
            descriptors: How many files Envoy may have open.
            pod_connections: The attribute; None for the default, which is at most a quarter of all
                connections.
            memory: How many bytes the agent and Envoy together may use; None for no limit.
        """
        connections = max(1, descriptors // _DESCRIPTORS_PER_CONNECTION)
        usual = min(POD_CONNECTIONS, max(1, connections // _POD_SHARE))
        return cls(
            connections=connections,
            pod_connections=usual if pod_connections is None else pod_connections,
            heap_bytes=None if memory is None else memory * _HEAP_PERCENT // 100,
        )


def runtime_layer(uids: Iterable[str], pod_connections: int) -> Message:
    """The runtime layer that limits the connections of each listener of some pods."""
    layer = rtds_pb2.Runtime(name=RUNTIME_LAYER)
    for uid in uids:
        for role in Role:
            key = f"envoy.resource_limits.listener.{listener_name(role, uid)}.connection_limit"
            layer.layer.fields[key].number_value = pod_connections
    return layer


def buffer_limit() -> Message:
    """`BUFFER_BYTES` as a field of a listener or cluster."""
    return wrappers_pb2.UInt32Value(value=BUFFER_BYTES)
