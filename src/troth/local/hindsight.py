"""What a running mesh says about the connections it has seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from troth._syntax import choices
from troth.errors import PeerError
from troth.explain.audit import Known, audit
from troth.explain.front_doors import FrontDoors
from troth.explain.noted import note
from troth.explain.remedies import Explainer
from troth.explain.why import named, why
from troth.local.unready import unready

if TYPE_CHECKING:
    from troth.explain.audit_report import Audit
    from troth.explain.why_report import Why
    from troth.local.arguments import AuditRequest, WhyRequest
    from troth.local.mesh import LocalMesh
    from troth.mesh.world import World


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
