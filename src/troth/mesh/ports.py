"""The ports and marks that troth uses in a pod's network namespace: one table for all parts."""

from __future__ import annotations

from typing import NamedTuple


class PortSet(NamedTuple):
    """Where one Envoy listens in every pod.

    Attributes:
        outbound: On loopback: TCP leaving the pod is redirected here.
        inbound: TCP entering the pod outside the tunnel is redirected here.
        tunnel: Tunnel connections are redirected here.
    """

    outbound: int
    inbound: int
    tunnel: int


PORT_SETS = (PortSet(15001, 15006, 15007), PortSet(15101, 15106, 15107))
"""Two, so that a new agent's Envoy can listen next to the old one's.

A pod's capture rules decide which of them gets its connections.
"""

OUTBOUND_PORT, INBOUND_PORT, TUNNEL_PORT = PORT_SETS[0]
"""The well-known ports of troth.

Clients dial the third for a tunnel (TLS 1.3 between captured pods), whichever Envoy listens.
(15008 is Istio ambient's.)
"""

OWN_PORTS = tuple(port for ports in PORT_SETS for port in ports)
"""All ports of troth: apps can't have them, whichever are in use."""

ENVOY_MARK = 0x539
"""SO_MARK of Envoy's sockets for traffic leaving a pod, so that it isn't captured again."""

APP_MARK = 0x53A
"""SO_MARK of Envoy's sockets that connect to a pod's app from the client's address.

The pod's routes keep marked packets inside the pod, in both directions. See `troth.agent.netlink`.
"""

TUNNEL_ALPN = "troth"
"""The ALPN protocol of both ends of a tunnel, so that captures and traces show what it is."""
