"""The expected path of a connection: its ends, and what both of them decide."""

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
    """The route from ``source`` to ``target``.

    Args:
        world: Everything that is known.
        source: The client pod.
        name: The name that ``target`` was found by.
        target: The destination.
        refused: Why pods that should be captured are not, by UID.
        unready: The pods that the service of that name selects, each with its problem.
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
    """The status of the node's Envoy.

    Args:
        agent: The node's.
        of: UIDs of the pods to report Envoy's rejections for; by default all pods.
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
