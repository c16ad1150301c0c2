"""What a connection will meet, before it is made: who is who, and what both ends decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.connect.findings import Route, Way
from troth.mesh.decisions import client_decision, server_decision
from troth.mesh.model import EnvoyStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from troth.agent.agent import NodeAgent
    from troth.mesh.model import Pod, Service
    from troth.mesh.target import Target
    from troth.mesh.world import World


def route(
    world: World,
    source: Pod,
    name: str,
    target: Target,
    *,
    refused: Mapping[str, str],
    unready: Iterable[str] = (),
) -> Route:
    """The way from ``source`` to ``target``.

    Args:
        world: Everything that is known.
        source: The pod that would connect.
        name: What ``target`` was found by.
        target: Where it would connect to.
        refused: Why pods that should be captured are not, by UID.
        unready: The pods that the service of that name selects, each with what is amiss.
    """
    service = world.services.get(name)
    dialled = service if service and target.address in service.cluster_ips else None
    belongs = world.membership(source)
    why = belongs.why
    if belongs.in_mesh and not source.captured:
        why = refused.get(source.uid, "not captured yet")
    return Route(
        source=str(source),
        captured=source.captured,
        in_mesh=belongs.in_mesh,
        why=why,
        identity=str(source.spiffe_id(world.trust_domain)) if source.captured else None,
        address=target.address,
        port=target.port,
        service=str(dialled) if dialled else None,
        service_ports=_tcp_ports(service) if service else (),
        ways=tuple(
            Way(
                client=client_decision(world, source, endpoint),
                server=server_decision(world, endpoint),
            )
            for endpoint in target.endpoints
        ),
        unready=tuple(unready) if dialled and not target.endpoints else (),
    )


def envoy_status(agent: NodeAgent, *, of: Collection[str] | None = None) -> EnvoyStatus:
    """How the node's Envoy is.

    Args:
        agent: The node's.
        of: UIDs of the pods of which to tell what Envoy refuses; by default of all there is.
    """
    status = agent.ads_status()
    return EnvoyStatus(
        connected=status.connected,
        restarts=agent.envoy_restarts,
        refused=tuple(
            f"{nack.name}: {nack.message}"
            for nack in status.nacks
            if of is None or any(uid in nack.name for uid in of)
        ),
    )


def _tcp_ports(service: Service) -> tuple[int, ...]:
    return tuple(port.number for port in service.ports if port.protocol == "TCP")
