"""What clusters and the internal listener are called, on both sides of every reference."""

from __future__ import annotations

INTERNAL_OUTBOUND = "outbound"
"""The internal listener, and the cluster that leads to it."""

RESET = "reset"
"""The listener that resets whatever connects to it, and the cluster that leads to it."""


def listener_name(role: str, uid: str) -> str:
    """The listener of pod ``uid`` for ``role``; its counters are called so as well."""
    return f"{role}|{uid}"


def cluster_name(uid: str, role: str) -> str:
    """The cluster of pod ``uid`` for ``role``: ``app``, ``plain`` or ``tunnel``."""
    return f"{uid}|{role}"


def service_cluster_name(address: str, port: int) -> str:
    """The cluster of a service's virtual IP and port."""
    return f"svc|[{address}]:{port}" if ":" in address else f"svc|{address}:{port}"
