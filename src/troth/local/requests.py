"""What a running mesh answers to the `troth` command."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from troth.connect.attempt import ClientPod, connect, http_get, listening
from troth.connect.findings import Listening
from troth.connect.report import Credentials
from troth.connect.route import envoy_status, route
from troth.control.messages import (
    AuditRequest,
    CauseRequest,
    ConnectRequest,
    MeshStatus,
    PodDescription,
    PodReport,
    RestartRequest,
    RouteRequest,
    ScaleRequest,
    StopRequest,
    TraceRequest,
    WhyRequest,
)
from troth.errors import PeerError
from troth.explain.audit import Known, audit
from troth.explain.explain import explain
from troth.explain.front_doors import FrontDoors
from troth.explain.noted import Observations
from troth.explain.remedies import Explainer, note
from troth.explain.why import why
from troth.local.control import Answer, ControlServer, checked
from troth.manifests.services import service_of
from troth.mesh.ports import OWN_PORTS
from troth.mesh.target import find_target, is_address, target_key
from troth.policy.index import PolicyIndex
from troth.syntax import choices
from troth.traffic.tally import Total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from troth.identity.authority import CertificateAuthority
    from troth.local.mesh import LocalMesh
    from troth.local.sandbox import Sandbox
    from troth.manifests.workloads import ServiceSpec
    from troth.mesh.model import Pod
    from troth.mesh.target import Target
    from troth.mesh.world import World

_REFUSALS = 5
"""How many of a pod's refusals its description has."""

_NAME_SECONDS = 3.0
"""How long a name outside of the mesh may take to resolve."""


class Requests:
    """Answers requests about one mesh.

    Args:
        mesh: The mesh.
        authority: Signs what traces show.
        stop: Called to end the mesh, and again to have it end sooner; as of `StopRequest`.
    """

    def __init__(
        self,
        mesh: LocalMesh,
        *,
        authority: CertificateAuthority,
        stop: Callable[[float | None], None],
    ) -> None:
        self._mesh = mesh
        self._authority = authority
        self._stop = stop

    def server(self, path: Path) -> ControlServer:
        """The server for these requests at the Unix socket ``path``."""
        return ControlServer(
            path,
            {
                "status": self._status,
                "progress": self._progress,
                "notices": self._notices,
                "events": self._events,
                "find": self._find,
                "describe": self._describe,
                "restart": self._restart,
                "scale": self._scale,
                "route": self._route,
                "listening": self._listening,
                "cause": self._cause,
                "explain": self._explain,
                "connect": self._connect,
                "trace": self._trace,
                "why": self._why,
                "audit": self._audit,
                "stop": self._end,
                "ending": self._ending,
            },
        )

    async def _status(self, _: Mapping[str, Any]) -> Answer:
        await self._mesh.caught_up()
        yield mesh_status(self._mesh)

    async def _progress(self, _request: Mapping[str, Any]) -> Answer:
        """Lines of what is waited for, until all is ready."""
        last = None
        async for _ in self._mesh.changes():
            waiting = self._mesh.waiting_for()
            if not waiting:
                yield {"ready": True}
                return
            if waiting != last:
                yield {"ready": False, "waiting_for": waiting}
                last = waiting

    async def _notices(self, _: Mapping[str, Any]) -> Answer:
        with self._mesh.notices.following() as notices:
            for notice in self._mesh.notices:
                yield {"notice": notice}
            async for notice in notices:
                yield {"notice": notice}

    async def _events(self, request: Mapping[str, Any]) -> Answer:
        connections = self._mesh.agent.connections
        with connections.following() as new:
            for connection in connections:
                yield connection
            if request.get("follow"):
                async for connection in new:
                    yield connection

    async def _find(self, request: Mapping[str, Any]) -> Answer:
        name = str(request.get("name", ""))
        sandbox, ports = find_service(self._mesh, name) if request.get("service") else (None, {})
        sandbox = sandbox or find(self._mesh, name, ending=True)
        yield {
            "pod": sandbox.key,
            "uid": sandbox.uid,
            "containers": [
                each.name
                for each in (*sandbox.template.containers, *sandbox.template.init_containers)
            ],
            "waiting": sandbox.blocker,
            "ports": ports,
        }

    async def _restart(self, request: Mapping[str, Any]) -> Answer:
        yield {"pods": self._mesh.restart(checked(request, RestartRequest).name)}

    async def _scale(self, request: Mapping[str, Any]) -> Answer:
        wanted = checked(request, ScaleRequest)
        yield {"workload": self._mesh.scale(wanted.name, wanted.replicas)}

    async def _describe(self, request: Mapping[str, Any]) -> Answer:
        sandbox = find(self._mesh, str(request.get("name", "")))
        world = self._world()
        addresses = set(sandbox.addresses)
        refused = why(
            self._seen(behind=partial(unready, self._mesh)), about=sandbox.key, most=_REFUSALS
        )
        yield PodDescription(
            pod=_pod_status(self._mesh, sandbox),
            init_containers=tuple(
                each for each in sandbox.status.init_containers if not each.sidecar
            ),
            services=tuple(
                key
                for key, service in sorted(world.services.items())
                if any(addresses & {e.address for e in port.endpoints} for port in service.ports)
            ),
            notices=tuple(
                each for each in self._mesh.notices if each.startswith(f"pod {sandbox.key}:")
            ),
            refusals=tuple(
                f"{each.source} → {each.destination}:{each.port}: {each.cause}"
                for each in refused.refusals
            ),
        )

    async def _explain(self, request: Mapping[str, Any]) -> Answer:
        name = str(request.get("name", ""))
        for sandbox in self._mesh.sandboxes:
            if sandbox.key == name:  # a replica is explained by what it was made from
                template = sandbox.template
                name = f"{template.namespace}/{template.owner or template.name}"
        yield explain(
            self._mesh.manifests,
            name,
            root_namespace=self._mesh.settings.root_namespace,
            trust_domain=self._mesh.agent.trust_domain,
        )

    async def _route(self, request: Mapping[str, Any]) -> Answer:
        wanted = checked(request, RouteRequest)
        world, place = self._place(wanted.source)
        name = await self._named(wanted.destination, place.pod)
        yield route(
            world,
            place.pod,
            name,
            find_target(world, name, wanted.port, place.pod),
            refused=self._mesh.agent.refused,
            unready=unready(self._mesh, name),
        )

    async def _listening(self, request: Mapping[str, Any]) -> Answer:
        sandbox = find(self._mesh, str(request.get("name", "")))
        sockets = (each for each in listening(sandbox.netns) if each.port not in OWN_PORTS)
        yield Listening(pod=sandbox.key, sockets=tuple(sockets))

    async def _cause(self, request: Mapping[str, Any]) -> Answer:
        explainer = Explainer(self._world(), behind=partial(unready, self._mesh))
        yield explainer.explain(Total.of(checked(request, CauseRequest).connection))

    async def _connect(self, request: Mapping[str, Any]) -> Answer:
        wanted = checked(request, ConnectRequest)
        world, place = self._place(wanted.source)
        yield await connect(
            world,
            place,
            await self._target(world, wanted, place.pod),
            connections=self._mesh.agent.connections,
            payload=http_get(wanted.destination),
            timeout=wanted.timeout,
            captured=not wanted.uncaptured,
        )

    async def _trace(self, request: Mapping[str, Any]) -> Answer:
        # Slow to import, and seldom needed.
        from troth.connect import tracing  # noqa: PLC0415

        wanted = checked(request, TraceRequest)
        world, place = self._place(wanted.source)
        _, claimant = self._place(wanted.claim or wanted.source)
        yield await tracing.trace(
            world,
            place,
            await self._target(world, wanted, place.pod),
            credentials=Credentials(wanted.credentials),
            claimed=claimant.pod.spiffe_id(world.trust_domain),
            identities=tracing.Identities(
                current=self._mesh.agent.certificates.current(),
                roots=self._mesh.agent.certificates.bundle,
                authority=self._authority,
            ),
            connections=self._mesh.agent.connections,
            payload=http_get(wanted.destination),
            timeout=wanted.timeout,
        )

    async def _audit(self, request: Mapping[str, Any]) -> Answer:
        now = datetime.now(UTC)
        since = now - timedelta(seconds=checked(request, AuditRequest).seconds)
        manifests = self._mesh.manifests
        controllers = (*manifests.deployments.values(), *manifests.workloads.values())
        yield audit(
            self._seen(since=since),
            since=since,
            now=now,
            selectors={f"{each.namespace}/{each.name}": each.selector for each in controllers},
            known=Known(FrontDoors(self._mesh.manifests)),
        )

    async def _why(self, request: Mapping[str, Any]) -> Answer:
        wanted = checked(request, WhyRequest)
        seen = self._seen(behind=partial(unready, self._mesh))
        yield why(seen, about=wanted.about, most=wanted.count)

    def _seen(
        self,
        *,
        since: datetime | None = None,
        behind: Callable[[str], Iterable[str]] | None = None,
    ) -> Observations:
        world, agent = self._world(), self._mesh.agent
        tally = agent.journal.tally
        return Observations(
            complete_since=tally.complete_since,
            noted=tuple(note(tally.totals(since), world, behind=behind)),
            world=world,
            not_captured=agent.refused,
            refused_by_envoy=envoy_status(agent).refused,
        )

    def _world(self) -> World:
        if self._mesh.world is None:
            raise PeerError("troth", "the mesh is only being made", "try again in a moment")
        return self._mesh.world

    def _place(self, name: str) -> tuple[World, ClientPod]:
        sandbox = find(self._mesh, name)
        world = self._mesh.world
        if world is None or sandbox.uid not in world.pods:
            raise PeerError("troth", f"{sandbox.key} is only being made", "try again in a moment")
        return world, ClientPod(pod=world.pods[sandbox.uid], netns=sandbox.netns)

    async def _target(self, world: World, wanted: RouteRequest, source: Pod) -> Target:
        name = await self._named(wanted.destination, source)
        return find_target(world, name, wanted.port, source)

    async def _named(self, name: str, source: Pod) -> str:
        """What an app of ``source`` means by ``name``: ``NAMESPACE/NAME``, or an address.

        Raises:
            PeerError: It is a name outside of the mesh, and has no address here.
        """
        key = target_key(name, source.namespace)
        while (alias := self._mesh.aliases.get(key)) is not None:  # they lead in no circle
            key = service_of(alias) or alias
        if "/" in key or is_address(key):
            return key
        try:
            async with asyncio.timeout(_NAME_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(key, None)
        except (OSError, TimeoutError):
            means = (
                f"is ExternalName {key}, which" if key != name else "is no name of the mesh, and"
            )
            raise PeerError(
                "troth",
                f"{name} {means} has no address here",
                "name a Service, a pod or an address",
            ) from None
        return str(found[0][4][0])

    async def _end(self, request: Mapping[str, Any]) -> Answer:
        """End the mesh, and say how long that may take."""
        grace = checked(request, StopRequest).grace
        self._stop(grace)
        _, seconds = self._mesh.not_ended()
        yield {"stopping": True, "seconds": seconds if grace is None else min(seconds, grace)}

    async def _ending(self, _request: Mapping[str, Any]) -> Answer:
        """Lines of which pods a mesh that is to end still waits for, until it has ended."""
        async for _ in self._mesh.changes():
            pods, seconds = self._mesh.not_ended()
            yield {"waiting_for": pods, "seconds": seconds}


def find(mesh: LocalMesh, name: str, *, ending: bool = False) -> Sandbox:
    """The pod called ``NAMESPACE/NAME``, or any one (a ready one first) of such a workload.

    With ``ending`` also one that is to end, if there is no other.

    Raises:
        PeerError: There is none; says which there are.
    """
    for sandbox in (*mesh.sandboxes, *(mesh.ending if ending else ())):
        if sandbox.key == name:
            return sandbox
    if owned := [sandbox for sandbox in mesh.sandboxes if sandbox.template.owner_key == name]:
        return max(owned, key=lambda sandbox: sandbox.status.ready)
    known = (sandbox.key for sandbox in mesh.sandboxes)
    raise PeerError("troth", f"no pod or workload is called {name!r}", choices(name, known))


def find_service(mesh: LocalMesh, name: str) -> tuple[Sandbox | None, dict[str, int]]:
    """A pod behind the Service of this name, and the pod's port for each of the Service's.

    A pod or workload of that name comes first, as for `find`.
    """
    service = mesh.world.services.get(name) if mesh.world else None
    of_pods = any(name in (each.key, each.template.owner_key) for each in mesh.sandboxes)
    if service is None or of_pods:
        return None, {}
    for sandbox in mesh.sandboxes:
        ports = {
            str(port.number): endpoint.port
            for port in service.ports
            for endpoint in port.endpoints
            if endpoint.address in sandbox.addresses
        }
        if ports:
            return sandbox, ports
    raise PeerError("troth", f"Service {name} leads to no pod", "see troth status")


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


def mesh_status(mesh: LocalMesh) -> MeshStatus:
    """The whole mesh as it is now."""
    waiting = mesh.waiting_for()
    return MeshStatus(
        ready=not waiting,
        waiting_for=waiting,
        trust_domain=str(mesh.agent.trust_domain),
        root_namespace=mesh.settings.root_namespace,
        envoy=envoy_status(mesh.agent),
        policies=tuple(sorted(policy.key for policy in mesh.world.policies)) if mesh.world else (),
        ignored=dict(mesh.manifests.ignored),
        pods=tuple(_pod_status(mesh, sandbox) for sandbox in mesh.sandboxes),
        problems=mesh.problems,
        jobs=mesh.jobs,
    )


def _pod_status(mesh: LocalMesh, sandbox: Sandbox) -> PodReport:
    template = sandbox.template
    belongs = mesh.membership(template)
    captured = sandbox.uid in mesh.agent.captured
    why = belongs.why
    if belongs.in_mesh and not captured:
        why = mesh.agent.refused.get(sandbox.uid, "not captured yet")
    status = PodReport(
        namespace=template.namespace,
        name=template.name,
        workload=f"{template.namespace}/{template.owner or template.name}",
        uid=sandbox.uid,
        addresses=sandbox.addresses,
        phase=sandbox.status.phase,
        ready=sandbox.status.ready,
        containers=(
            *sandbox.status.containers,
            *(each for each in sandbox.status.init_containers if each.sidecar),
        ),
        in_mesh=belongs.in_mesh,
        captured=captured,
        why=why,
    )
    world = mesh.world
    if not belongs.in_mesh or world is None or sandbox.uid not in world.pods:
        return status
    pod = world.pods[sandbox.uid]
    identity = pod.spiffe_id(world.trust_domain)
    verdict = PolicyIndex(world.policies, root_namespace=world.root_namespace).effective(
        pod.namespace, pod.labels, [port.number for port in pod.ports]
    )
    svid = mesh.agent.certificates.current().get(identity)
    return msgspec.structs.replace(
        status,
        identity=str(identity),
        mode=verdict.mode,
        decided_by=verdict.decided_by,
        ports=verdict.port_modes,
        certificate_expires=svid.not_after if svid else None,
    )
