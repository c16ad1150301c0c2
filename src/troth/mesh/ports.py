"""The ports and marks that troth uses in a pod's network namespace: one table for all parts."""

from __future__ import annotations

from typing import NamedTuple


class PortSet(NamedTuple):
    """Where one Envoy listens in every pod.

    Attributes:
        outbound: On loopback: TCP leaving the pod is led here.
        inbound: TCP entering the pod without the tunnel is led here.
        tunnel: What comes by the tunnel is led here.
    """

    outbound: int
    inbound: int
    tunnel: int


PORT_SETS = (PortSet(15001, 15006, 15007), PortSet(15101, 15106, 15107))
"""Two, so that a new agent's Envoy listens beside the old one's.

Which of them gets a pod's connections is a matter of its capture rules, and changes with them.
"""

OUTBOUND_PORT, INBOUND_PORT, TUNNEL_PORT = PORT_SETS[0]
"""The ports by which people know troth.

Clients dial the third for a tunnel (TLS 1.3 between captured pods), whichever Envoy listens.
(15008 is Istio ambient's.)
"""

OWN_PORTS = tuple(port for ports in PORT_SETS for port in ports)
"""All of them: no app's, whichever are in use."""

ENVOY_MARK = 0x539
"""SO_MARK of every socket by which Envoy leaves a pod, so that its own traffic isn't captured."""

APP_MARK = 0x53A
"""SO_MARK of every socket by which Envoy reaches a pod's app under its client's address.

The pod's routes keep what carries it inside the pod, in both directions. See `troth.agent.netlink`.
"""

TUNNEL_ALPN = "troth"
"""What both ends of a tunnel offer by ALPN, so that captures and traces show what it is."""
