"""What each end of a connection decides, and why: the client how, the server whether.

They explain in words, for one connection, what `node_view` makes Envoy do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.mesh.target import pod_at
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy

if TYPE_CHECKING:
    from troth.mesh.model import Endpoint, Pod
    from troth.mesh.world import World
    from troth.policy.verdict import PortVerdict


class ClientDecision(msgspec.Struct, frozen=True, kw_only=True):
    """How a pod's connections travel to one endpoint.

    Attributes:
        source: The pod that connects, ``NAMESPACE/NAME``.
        identity: The SPIFFE ID it presents in a tunnel; None if it isn't captured.
        destination: The pod at the other end; None if that isn't a pod of the mesh.
        address: The other end's IP.
        port: The other end's port.
        expected: The SPIFFE ID that the server must have (secure naming); None without a tunnel.
        tunnel: Whether it connects with mutual TLS.
        why: The reason in one sentence.
    """

    source: str
    identity: str | None
    destination: str | None
    address: str
    port: int
    expected: str | None
    tunnel: bool
    why: str


class ServerDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What one endpoint accepts.

    Attributes:
        mode: The port's effective mode; None if the destination isn't captured.
        decided_by: The scope and policy that set the mode.
        plaintext: Whether it accepts connections outside the tunnel.
        tunnel: Whether it accepts connections through the tunnel.
        why: The reason in one sentence.
    """

    mode: Mode | None
    decided_by: DecidedBy | None
    plaintext: bool
    tunnel: bool
    why: str


def client_decision(world: World, source: Pod, endpoint: Endpoint) -> ClientDecision:
    """How ``source`` reaches ``endpoint``: through the tunnel, or directly."""
    destination = pod_at(world, endpoint.address)
    tunnel, why = _way(world, source, destination, endpoint)
    return ClientDecision(
        source=str(source),
        identity=str(source.spiffe_id(world.trust_domain)) if source.captured else None,
        destination=str(destination) if destination else None,
        address=endpoint.address,
        port=endpoint.port,
        expected=str(destination.spiffe_id(world.trust_domain)) if destination and tunnel else None,
        tunnel=tunnel,
        why=why,
    )


def server_decision(world: World, endpoint: Endpoint) -> ServerDecision:
    """What the pod at ``endpoint`` accepts."""
    destination = pod_at(world, endpoint.address)
    if destination is None or not destination.captured:
        return ServerDecision(
            mode=None,
            decided_by=None,
            plaintext=True,
            tunnel=False,
            why=_outside(world, destination, endpoint),
        )
    verdict = _port_verdict(world, destination, endpoint.port)
    return ServerDecision(
        mode=verdict.mode,
        decided_by=verdict.decided_by,
        plaintext=verdict.mode is not Mode.STRICT,
        tunnel=True,
        why=verdict.why,
    )


def _way(
    world: World, source: Pod, destination: Pod | None, endpoint: Endpoint
) -> tuple[bool, str]:
    if not source.captured:
        return False, _outside(world, source, endpoint)
    if destination is None or not destination.captured:
        return False, _outside(world, destination, endpoint)
    verdict = _port_verdict(world, destination, endpoint.port)
    return (
        verdict.mode is not Mode.DISABLE,
        f"port {endpoint.port} of {destination} is {verdict.mode} by {verdict.decided_by}",
    )


def _outside(world: World, pod: Pod | None, endpoint: Endpoint) -> str:
    if pod is None:
        return f"{endpoint.address} is not a pod of the mesh"
    belongs = world.membership(pod)
    if belongs.in_mesh:
        return f"{pod} is not captured yet"
    return f"{pod} is not in the mesh: {belongs.why}"


def _port_verdict(world: World, pod: Pod, port: int) -> PortVerdict:
    index = PolicyIndex(world.policies, root_namespace=world.root_namespace)
    return index.decide(pod.namespace, pod.labels, [port]).ports[port]
