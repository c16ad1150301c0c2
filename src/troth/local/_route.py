"""What a connection will meet, before it is made: who is who, and what both ends decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.explain import Explainer
from troth.local._report import Cause, Route, Way
from troth.mesh import Total, client_decision, server_decision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.local._mesh import LocalMesh
    from troth.local._sandbox import Sandbox
    from troth.mesh import Connection, Pod, Service, Target, World


def route(mesh: LocalMesh, world: World, source: Pod, name: str, target: Target) -> Route:
    """The way from ``source`` to ``target``, which was found by ``name``."""
    service = world.services.get(name)
    dialled = service if service and target.address in service.cluster_ips else None
    belongs = world.membership(source)
    why = belongs.why
    if belongs.in_mesh and not source.captured:
        why = mesh.agent.refused.get(source.uid, "not captured yet")
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
        unready=tuple(_unready(mesh, name)) if dialled and not target.endpoints else (),
    )


def cause(world: World, connection: Connection) -> Cause:
    """Why a connection was refused or failed, and what to do about it."""
    source, destination = connection.source, connection.destination
    alone = Total(
        source=source.workload or source.address,
        destination=destination.workload or destination.address,
        port=destination.port,
        count=1,
        first=connection.time,
        last=connection.time,
        newest=connection,
    )
    texts = Explainer(world).explain(alone)
    return Cause(cause=texts.cause, remedy=texts.remedy)


def _tcp_ports(service: Service) -> tuple[int, ...]:
    return tuple(port.number for port in service.ports if port.protocol == "TCP")


def _unready(mesh: LocalMesh, name: str) -> Iterator[str]:
    """The pods that a Service selects, and why it doesn't lead to them."""
    spec = mesh.manifests.services.get(name)
    if spec is None or not spec.selector:
        return
    for sandbox in mesh.sandboxes:
        labels = sandbox.template.labels
        if sandbox.template.namespace == spec.namespace and spec.selector.items() <= labels.items():
            yield f"{sandbox.key}: {_why_left_out(sandbox)}"


def _why_left_out(sandbox: Sandbox) -> str:
    if sandbox.status.ready:
        return "has no container port of the service's targetPort, or no address of its IP family"
    return sandbox.blocker or "runs, but its readiness probe does not succeed"
