"""NetworkPolicies that admit an app's port and not the tunnel's, which its connections come by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.check.report import error
from troth.envoy.ports import TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from troth.check.facts import NetworkPolicy, PolicyPort, PolicyRule
    from troth.check.report import Finding

_ANY = frozenset({b"", b"[]", b"null"})


def blocked_tunnels(policies: Iterable[NetworkPolicy]) -> Iterator[Finding]:
    """Judge the NetworkPolicies of namespaces that are in the mesh.

    A rule that limits the TCP ports has to admit the tunnel's port, too, unless another one for at
    least the same pods and peers does.
    """
    by_namespace: dict[str, list[NetworkPolicy]] = {}
    for policy in policies:
        by_namespace.setdefault(policy.metadata.namespace, []).append(policy)
    for together in by_namespace.values():
        for policy in together:
            yield from _findings(policy, together)


def _findings(policy: NetworkPolicy, together: Sequence[NetworkPolicy]) -> Iterator[Finding]:
    for direction in ("ingress", "egress"):
        for index, rule in enumerate(_rules(policy, direction)):
            ports = [port for port in rule.ports or () if port.protocol == "TCP"]
            if not ports or any(map(_admits_tunnel, ports)):
                continue
            if any(
                _admits(other, rule, direction)
                for peer in together
                if _covers(peer, policy)
                for other in _rules(peer, direction)
            ):
                continue
            yield _finding(policy, direction, index, ports)


def _finding(
    policy: NetworkPolicy, direction: str, index: int, ports: Sequence[PolicyPort]
) -> Finding:
    admitted = ", ".join(str(port.port) for port in ports)
    to_or_from = "to" if direction == "ingress" else "from"
    return error(
        "network-policy-blocks-tunnel",
        f"NetworkPolicy {policy.metadata.place}",
        f"admits TCP port {admitted} ({direction} rule {index}), but not {TUNNEL_PORT}",
        why=f"Connections {to_or_from} its pods from and to other pods of the mesh go by the "
        f"tunnel, port {TUNNEL_PORT}, and would fail.",
        remedy=f"Add {{protocol: TCP, port: {TUNNEL_PORT}}} to spec.{direction}[{index}].ports.",
    )


def _rules(policy: NetworkPolicy, direction: str) -> Sequence[PolicyRule]:
    types = policy.spec.policy_types or ["Ingress"]
    if direction == "ingress":
        return (policy.spec.ingress or ()) if "Ingress" in types else ()
    is_meant = "Egress" in types or policy.spec.policy_types is None
    return (policy.spec.egress or ()) if is_meant else ()


def _covers(other: NetworkPolicy, policy: NetworkPolicy) -> bool:
    """Whether ``other`` selects at least the pods of ``policy``, as far as can be seen."""
    theirs, ours = other.spec.pod_selector, policy.spec.pod_selector
    if theirs.selects_all:
        return True
    if theirs.match_expressions:
        return theirs == ours
    return (theirs.match_labels or {}).items() <= (ours.match_labels or {}).items()


def _admits(other: PolicyRule, rule: PolicyRule, direction: str) -> bool:
    """Whether ``other`` lets the tunnel through for at least the peers of ``rule``."""
    theirs, ours = _peers(other, direction), _peers(rule, direction)
    admits = other.ports is None or not other.ports or any(map(_admits_tunnel, other.ports))
    return admits and (theirs in _ANY or theirs == ours)


def _peers(rule: PolicyRule, direction: str) -> bytes:
    return bytes(rule.source if direction == "ingress" else rule.destination)


def _admits_tunnel(port: PolicyPort) -> bool:
    if port.protocol != "TCP":
        return False
    if port.port is None:
        return True
    if isinstance(port.port, str):  # a container's, and none of an app's is the tunnel's
        return False
    return port.port <= TUNNEL_PORT <= (port.end_port or port.port)
