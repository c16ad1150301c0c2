"""What a running mesh says about the connections it has seen, and why a Service leads nowhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from troth.connect.route import envoy_status
from troth.errors import PeerError
from troth.explain.audit import Known, audit
from troth.explain.front_doors import FrontDoors
from troth.explain.noted import Observations
from troth.explain.remedies import Explainer, note
from troth.explain.why import why

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
    seen = _seen(mesh, behind=partial(unready, mesh))
    return why(seen, about=request.about, most=request.count)


def explainer_of(mesh: LocalMesh, world: World) -> Explainer:
    """What explains connections of this mesh, which knows its Services' selectors."""
    return Explainer(world, behind=partial(unready, mesh))


def mesh_audit(mesh: LocalMesh, request: AuditRequest) -> Audit:
    """What was seen, and who is ready for STRICT.

    Raises:
        PeerError: The mesh is only being made.
    """
    now = datetime.now(UTC)
    since = now - timedelta(seconds=request.seconds)
    return audit(
        _seen(mesh, since=since),
        since=since,
        now=now,
        selectors={key: each.selector for key, each in mesh.manifests.deployments.items()},
        known=Known(FrontDoors(mesh.manifests)),
    )


def _seen(
    mesh: LocalMesh,
    *,
    since: datetime | None = None,
    behind: Callable[[str], Iterable[str]] | None = None,
) -> Observations:
    world, tally = _world(mesh), mesh.agent.journal.tally
    return Observations(
        complete_since=tally.complete_since,
        noted=tuple(note(tally.totals(since), world, behind=behind)),
        world=world,
        not_captured=mesh.agent.refused,
        refused_by_envoy=envoy_status(mesh.agent).refused,
    )


def _world(mesh: LocalMesh) -> World:
    if mesh.world is None:
        raise PeerError("troth", "the mesh is only being made", "try again in a moment")
    return mesh.world
