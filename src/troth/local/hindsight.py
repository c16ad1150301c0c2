"""What a running mesh says about the connections it has seen, and why a Service leads nowhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from troth.errors import PeerError
from troth.explain.audit import Known, audit
from troth.explain.front_doors import FrontDoors
from troth.explain.remedies import Explainer, note
from troth.explain.why import named, why
from troth.syntax import choices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.explain.audit_report import Audit
    from troth.explain.why import Why
    from troth.local.mesh import LocalMesh
    from troth.local.requests import AuditRequest, WhyRequest
    from troth.local.sandbox import Sandbox
    from troth.manifests.workloads import ServiceSpec
    from troth.mesh.world import World


def unready(mesh: LocalMesh, name: str) -> Iterator[str]:
    """The pods that a Service selects, and why it doesn't lead to them."""
    spec = mesh.manifests.services.get(name)
    if spec is None or not spec.selector:
        return
    for sandbox in mesh.sandboxes:
        labels = sandbox.template.labels
        if sandbox.template.namespace == spec.namespace and spec.selector.items() <= labels.items():
            yield f"{sandbox.key}: {_why_left_out(spec, sandbox)}"


def _why_left_out(spec: ServiceSpec, sandbox: Sandbox) -> str:
    if sandbox.status.ready:
        named = {port.name: port.number for port in sandbox.template.ports if port.name}
        for port in spec.ports:
            if isinstance(port.target, str) and port.target not in named:
                there = ", ".join(f"{name} ({number})" for name, number in named.items())
                return (
                    f"has no container port called {port.target!r}, which is the targetPort of "
                    f"port {port.number}; it has {there or 'none with a name'}"
                )
        return "has no address of the service's IP family"
    return sandbox.blocker or "runs, but its readiness probe does not succeed"


def mesh_why(mesh: LocalMesh, request: WhyRequest) -> Why:
    """Why connections were refused or failed.

    Raises:
        PeerError: The mesh is only being made, or nothing has the name asked about.
    """
    world = _world(mesh)
    tally = mesh.agent.journal.tally
    noted = tuple(note(tally.totals(), world, behind=partial(unready, mesh)))
    if request.about is not None and request.about not in named(noted, world):
        raise PeerError(
            "troth",
            f"no workload, pod or service is called {request.about!r}",
            choices(request.about, (pod.workload for pod in world.pods.values())),
        )
    return why(
        noted,
        world,
        complete_since=tally.complete_since,
        about=request.about,
        most=request.count,
        not_captured=mesh.agent.refused,
        refused_by_envoy=(f"{nack.name}: {nack.message}" for nack in mesh.agent.ads_status().nacks),
    )


def explainer_of(mesh: LocalMesh, world: World) -> Explainer:
    """What explains connections of this mesh, which knows its Services' selectors."""
    return Explainer(world, behind=partial(unready, mesh))


def mesh_audit(mesh: LocalMesh, request: AuditRequest) -> Audit:
    """What was seen, and who is ready for STRICT.

    Raises:
        PeerError: The mesh is only being made.
    """
    since = datetime.now(UTC) - timedelta(seconds=request.seconds)
    tally = mesh.agent.journal.tally
    world = _world(mesh)
    return audit(
        note(tally.totals(since), world),
        world,
        since=since,
        complete_since=tally.complete_since,
        not_captured=mesh.agent.refused,
        selectors={key: each.selector for key, each in mesh.manifests.deployments.items()},
        known=Known(FrontDoors(mesh.manifests)),
    )


def _world(mesh: LocalMesh) -> World:
    if mesh.world is None:
        raise PeerError("troth", "the mesh is only being made", "try again in a moment")
    return mesh.world
