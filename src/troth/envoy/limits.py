"""How much of the node's one Envoy a pod may use, so that none can starve the others.

A pod's limit is Envoy's own limit of a listener's connections, which it takes from its runtime
alone: a layer of it that comes over the ADS stream. A connection beyond it is accepted and closed
at once, before anything is spent on it.
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
"""Of each kind, by default. A proxied connection takes up to 55 kB, so one pod's of one kind take
225 MB: less than a quarter of the memory that the chart gives a node agent."""

BUFFER_BYTES = 256 * 1024
"""How much Envoy may hold back for an end that doesn't read, at each of the places where it does.

Envoy's own default is four times as much, and moves bytes no cheaper.
"""

CONNECT_SECONDS = 10
"""How long Envoy tries to connect: its first packet may be sent again three times meanwhile."""

HELLO_SECONDS = 5
"""How long a client of the tunnel has for its first message, the ClientHello."""

HANDSHAKE_SECONDS = 10
"""How long it has from then on to prove its identity. Who hasn't by then never will, and must not
hold a connection for ever."""

_DESCRIPTORS_PER_CONNECTION = 4  # two at each end, when both pods are of this node
_POD_SHARE = 4
"""A pod's part of all connections by default is one in so many, if that is less."""

_HEAP_PERCENT = 70
"""Of an agent's memory, for Envoy's heap. The rest is for the agent itself, and for what the kernel
holds back for sockets."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What Envoy may use.

    Attributes:
        connections: How many downstream connections all pods together may have open.
        pod_connections: How many of each kind one pod may have: that leave it, that come by the
            tunnel, and that come in plaintext.
        heap_bytes: How large its heap may grow before it takes no new connections; None if that
            isn't watched.
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
            pod_connections: As of the attribute; None for the default, which is never more than a
                quarter of all connections.
            memory: How many bytes the agent and Envoy together may use; None if there is no limit.
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
    """What a listener or cluster is told of `BUFFER_BYTES`."""
    return wrappers_pb2.UInt32Value(value=BUFFER_BYTES)
