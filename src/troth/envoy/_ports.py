"""The ports and marks that troth uses in a pod's network namespace: one table for all parts."""

from __future__ import annotations

OUTBOUND_PORT = 15001
"""TCP leaving the pod is redirected here, on loopback."""

INBOUND_PORT = 15006
"""TCP entering the pod without the tunnel is redirected here."""

TUNNEL_PORT = 15007
"""The tunnel: TLS 1.3 between captured pods. (15008 is Istio ambient's.)"""

OWN_PORTS = (OUTBOUND_PORT, INBOUND_PORT, TUNNEL_PORT)

ENVOY_MARK = 0x539
"""SO_MARK of every socket that Envoy makes in a pod, so that its own traffic isn't captured."""

TUNNEL_ALPN = "troth"
"""What both ends of a tunnel offer by ALPN, so that captures and traces show what it is."""
