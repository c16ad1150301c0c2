"""Which workloads are ready for STRICT by the connections seen, and why others are not."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from troth.explain.audit_report import (
    Audit,
    Client,
    LeftOut,
    Pair,
    PortAudit,
    PortState,
    WorkloadAudit,
)
from troth.explain.front_doors import Breakage, Caller, FrontDoors, worst
from troth.explain.noted import told_once
from troth.explain.proposals import propose
from troth.explain.workloads import belongs
from troth.mesh.model import Protocol
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode
from troth.traffic.connection import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from troth.errors import Problem
    from troth.explain.front_doors import FrontDoor
    from troth.explain.noted import Noted, Observations
    from troth.explain.why import Unanswered
    from troth.manifests.collect import Manifests
    from troth.mesh.model import Pod

_PASSED = frozenset({Outcome.ACCEPTED, Outcome.PLAINTEXT})


class Known(NamedTuple):
    """What is known about clients in addition to the connections seen.

    Attributes:
        front_doors: How they come from outside every mesh; None if unknown.
        outside: Workloads outside the mesh, ``NAMESPACE/NAME``; those of the world are added.
        problems: What could not be read.
    """

    front_doors: FrontDoors | None = None
    outside: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, manifests: Manifests, problems: Iterable[Problem] = ()) -> Known:
        """What is known from manifests."""
        outside = {
            f"{each.namespace}/{each.owner or each.name}"
            for each in manifests.templates
            if not belongs(
                manifests, each.namespace, each.labels, host_network=each.host_network
            ).in_mesh
        }
        return cls(FrontDoors(manifests), tuple(sorted(outside)), tuple(problems))

    @property
    def verdict(self) -> Breakage:
        """Whether any port may have clients that STRICT refuses."""
        if self.outside:
            return Breakage.POSSIBLE
        return Breakage.UNKNOWN if self.problems else Breakage.NONE


def audit(
    seen: Observations,
    *,
    since: datetime,
    now: datetime,
    selectors: Mapping[str, Mapping[str, str]] | None = None,
    known: Known | None = None,
    unanswered: Iterable[Unanswered] = (),
) -> Audit:
    """Judge a mesh by its connections.

    If some nodes have not answered, nothing is ready, and no policy is safe.

    Args:
        seen: The connections since then.
        since: The start of the requested time.
        now: Its end.
        selectors: The labels by which a workload (``NAMESPACE/NAME``) selects its pods; without
            them, its pods' own labels count.
        known: What else is known about clients.
        unanswered: The nodes that have not answered.
    """
    world, known, unanswered = seen.world, known or Known(), tuple(unanswered)
    names = {pod.workload for pod in world.pods.values() if not world.membership(pod).in_mesh}
    known = known._replace(outside=tuple(sorted({*names, *known.outside})))
    workloads = tuple(_Auditor(seen, known).workloads())
    policies, left_out = propose(workloads, world, selectors or {}, unseen=known.verdict)
    if unanswered:
        why = "not all nodes have said what they have seen"
        policies, left_out = (), tuple(LeftOut(workload=each.key, why=why) for each in workloads)
    return Audit(
        ready=not unanswered and all(workload.ready for workload in workloads),
        verdict=worst(
            verdict
            for each in workloads
            for verdict in (
                [port.verdict for port in each.ports.values()]
                or [Breakage.NONE if each.mode is Mode.STRICT else known.verdict]
            )
        ),
        outside=known.outside,
        since=since,
        complete_since=now if unanswered else seen.complete_since,
        pairs=_pairs(seen.noted),
        workloads=workloads,
        policies=policies,
        left_out=left_out,
        unanswered=unanswered,
        problems=known.problems,
    )


def _pairs(noted: Iterable[Noted]) -> tuple[Pair, ...]:
    pairs: dict[tuple[str, int, str], Pair] = {}
    for each in told_once(noted):
        total, destination = each.total, each.destination
        outcome = total.newest.outcome
        if outcome is Outcome.FAILED:
            continue  # nothing forbade it, so it says nothing about policies
        key = (destination, total.port, total.source)
        before = pairs.get(key)
        counts = [before.tunnel, before.plaintext, before.refused] if before else [0, 0, 0]
        counts[(Outcome.ACCEPTED, Outcome.PLAINTEXT, Outcome.REFUSED).index(outcome)] += total.count
        pairs[key] = Pair(
            source=total.source,
            destination=destination,
            port=total.port,
            tunnel=counts[0],
            plaintext=counts[1],
            refused=counts[2],
            last=max(before.last, total.last) if before else total.last,
        )
    return tuple(pair for _, pair in sorted(pairs.items()))


class _Auditor:
    def __init__(self, seen: Observations, known: Known) -> None:
        world = self._world = seen.world
        self._known = known
        self._policies = {policy.key: policy for policy in world.policies}
        self._not_captured = seen.not_captured
        self._index = PolicyIndex(world.policies, root_namespace=world.root_namespace)
        self._pods: dict[str, list[Pod]] = defaultdict(list)
        for pod in world.pods.values():
            if world.membership(pod).in_mesh:
                self._pods[pod.workload].append(pod)
        self._passed: dict[tuple[str, int], list[Noted]] = defaultdict(list)
        for each in seen.noted:
            if each.total.newest.outcome in _PASSED:
                self._passed[each.total.destination, each.total.port].append(each)

    def workloads(self) -> Iterable[WorkloadAudit]:
        for name, pods in sorted(self._pods.items()):
            doors = self._front_doors(pods[0])
            numbers = sorted(self._ports(name, pods) | doors.keys())
            ports = {port: self._port(name, pods, port, doors.get(port, ())) for port in numbers}
            missing = [pod for pod in pods if not pod.captured]
            yield WorkloadAudit(
                namespace=pods[0].namespace,
                name=name.partition("/")[2],
                ready=not missing and all(port.state.is_ready for port in ports.values()),
                captured=not missing,
                why="; ".join(
                    f"{pod}: {self._not_captured.get(pod.uid, 'not captured yet')}"
                    for pod in missing
                ),
                mode=self._index.decide(pods[0].namespace, pods[0].labels, ()).mode,
                ports=ports,
            )

    def _ports(self, name: str, pods: Sequence[Pod]) -> set[int]:
        declared = {
            port.number for pod in pods for port in pod.ports if port.protocol is Protocol.TCP
        }
        addresses = {address for pod in pods for address in pod.addresses}
        served = {
            endpoint.port
            for service in self._world.services.values()
            for port in service.ports
            if port.protocol is Protocol.TCP
            for endpoint in port.endpoints
            if endpoint.address in addresses
        }
        used = {port for workload, port in self._passed if workload == name}
        return declared | served | used

    def _front_doors(self, pod: Pod) -> Mapping[int, tuple[FrontDoor, ...]]:
        doors = self._known.front_doors
        if doors is None:
            return {}
        return doors.of(pod.namespace, pod.labels, pod.ports, owner=pod.owner or pod.name)

    def _port(
        self, name: str, pods: Sequence[Pod], port: int, doors: tuple[FrontDoor, ...]
    ) -> PortAudit:
        decision = self._index.decide(pods[0].namespace, pods[0].labels, [port])
        mode, decided_by = decision.mode_of(port), decision.decider_of(port)
        passed = self._passed.get((name, port), ())
        clients = _plaintext(passed)
        tunnel = any(each.total.newest.outcome is Outcome.ACCEPTED for each in passed)
        state = _state(mode, plaintext=bool(clients), tunnel=tunnel)
        if doors and mode is Mode.PERMISSIVE and not _of_pods(clients):
            policy = self._policies.get(decided_by.policy or "")
            if policy and policy.port_modes.get(port) is mode:
                state = PortState.LEFT_OPEN
            elif clients or not (tunnel and _through_gateways(doors)):
                state = PortState.FRONT_DOOR
        return PortAudit(
            state=state,
            mode=mode,
            decided_by=decided_by,
            because_of=clients if state in {PortState.PLAINTEXT, PortState.FRONT_DOOR} else (),
            front_doors=doors,
            verdict=self._verdict(state, doors, plaintext=bool(clients)),
        )

    def _verdict(
        self, state: PortState, doors: tuple[FrontDoor, ...], *, plaintext: bool
    ) -> Breakage:
        if state in {PortState.STRICT, PortState.LEFT_OPEN}:
            return Breakage.NONE  # it stays as it is
        if plaintext:
            return Breakage.SEEN
        return Breakage.POSSIBLE if doors else self._known.verdict


def _of_pods(clients: Iterable[Client]) -> bool:
    """Whether any client is a pod, rather than another address."""
    return any("/" in client.source for client in clients)


def _through_gateways(doors: Iterable[FrontDoor]) -> bool:
    """Whether all such clients come through proxies, whose traffic was seen."""
    return all(door.clients is Caller.GATEWAY for door in doors)


def _plaintext(noted: Iterable[Noted]) -> tuple[Client, ...]:
    """The clients that would be refused."""
    clients: dict[str, Client] = {}
    for each in noted:
        total = each.total
        if total.newest.outcome is not Outcome.PLAINTEXT or _was_told_to(each):
            continue
        before = clients.get(total.source)
        clients[total.source] = Client(
            source=total.source,
            count=total.count + (before.count if before else 0),
            last=max(total.last, before.last) if before else total.last,
        )
    return tuple(sorted(clients.values(), key=lambda client: (-client.count, client.source)))


def _was_told_to(noted: Noted) -> bool:
    """Whether a client of the mesh used plaintext because of DISABLE; it will use the tunnel."""
    return noted.client_captured and noted.total.newest.mode is Mode.DISABLE


def _state(mode: Mode, *, plaintext: bool, tunnel: bool) -> PortState:
    if mode is Mode.STRICT:
        return PortState.STRICT
    if mode is Mode.DISABLE:
        return PortState.DISABLED
    if plaintext:
        return PortState.PLAINTEXT
    return PortState.READY if tunnel else PortState.NO_TRAFFIC
