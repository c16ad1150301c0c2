"""What a node's agent does to learn about one connection.

A face of its own, because the agent's packages behind it are slow to import.
"""

from __future__ import annotations

from troth.dial._connect import Place, connect, http_get
from troth.dial._listening import listening
from troth.dial._route import cause, envoy_status, route

__all__ = ["Place", "cause", "connect", "envoy_status", "http_get", "listening", "route"]
