"""Compare two sets of manifests: which modes change, who is refused, what is no longer encrypted.

Before and after the change, three facts decide about a pair of a client and a port: whether the
client is in the mesh, whether the server is, and the port's effective mode.

========  ========  ==================  =========
client    server    mode                the pair
========  ========  ==================  =========
any       outside   any                 plaintext
any       in mesh   DISABLE             plaintext
outside   in mesh   PERMISSIVE          plaintext
outside   in mesh   STRICT              refused
in mesh   in mesh   STRICT, PERMISSIVE  encrypted
========  ========  ==================  =========

So pairs need not be compared one by one. Clients are grouped into those that stay in the mesh, stay
outside or leave it, ports by their modes before and after, and each answer is one group of clients
times one group of ports.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from troth.errors import Problem, Severity
from troth.explain.audit_report import Proposal
from troth.explain.front_doors import Breakage, FrontDoor, FrontDoors
from troth.explain.noted import Plaintext
from troth.explain.proposals import except_front_doors
from troth.explain.validate import validate
from troth.explain.workloads import belongs, tcp_ports
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from troth.manifests.collect import Manifests
    from troth.manifests.custom import CustomWorkload
    from troth.manifests.workloads import PodTemplate
    from troth.policy.verdict import Decision


class WorkloadName(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A workload's unique name."""

    namespace: str
    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A port whose effective mode changes.

    Attributes:
        port: None for all ports of the workload that no other entry names.
        before: ``from`` in JSON; None while the workload isn't in the mesh.
        after: ``to`` in JSON; None once the workload isn't in the mesh.
        decided_by: Where the new mode comes from; None without one.
    """

    workload: WorkloadName
    port: int | None
    before: Mode | None = msgspec.field(name="from")
    after: Mode | None = msgspec.field(name="to")
    decided_by: DecidedBy | None


class PortChange(Change, frozen=True, kw_only=True):
    """A port that clients lose, or lose the encryption of.

    The modes may be equal: then it is the clients that change.

    Attributes:
        seen: The plaintext that running clients sent there, if known.
        front_doors: How clients from outside every mesh reach it, before and after.
    """

    seen: tuple[Plaintext, ...] = ()
    front_doors: tuple[FrontDoor, ...] = ()


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """Every pair of one of the clients and one of the ports.

    Attributes:
        clients: By the manifests; empty if clients are known only from observed traffic, or come
            through front doors.
    """

    clients: tuple[WorkloadName, ...]
    ports: tuple[PortChange, ...]


class UnknownWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """An object whose pods are unknown.

    Attributes:
        why: Why they are, in one clause.
    """

    workload: WorkloadName
    why: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a change would do; ``troth plan -o json`` prints exactly this.

    Attributes:
        verdict: Whether a client that gets through today would be refused.
        would_break: One would be, seen or possible.
        changes: By workload and port, for workloads that exist before and after.
        breaks: Connections that are accepted today and would be refused.
        unencrypted: Connections that are encrypted today and would pass in plaintext.
        weaker: Those of ``changes`` after which a port accepts plaintext that it refused, or no
            longer accepts the tunnel.
        unknown: Workloads with unknown pods that the change may affect.
        exceptions: Policies that keep open the front doors that the change would close.
        problems: Errors of the manifests after the change. The plan leaves out their objects.
        warnings: What `validate` would find after the change and not before.
    """

    schema: Literal["troth/plan/v1"] = "troth/plan/v1"
    verdict: Breakage
    would_break: bool
    changes: tuple[Change, ...]
    breaks: tuple[Affected, ...]
    unencrypted: tuple[Affected, ...]
    weaker: tuple[Change, ...] = ()
    unknown: tuple[UnknownWorkload, ...] = ()
    exceptions: tuple[Proposal, ...] = ()
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


_ENCRYPTED = (Mode.STRICT, Mode.PERMISSIVE)
_STRENGTH = {Mode.STRICT: 2, Mode.PERMISSIVE: 1}
"""The others, and being outside the mesh, are the weakest."""


def plan(
    current: Manifests,
    planned: Manifests,
    *,
    root_namespace: str,
    observed: Iterable[Plaintext] = (),
) -> Plan:
    """Say what going from ``current`` to ``planned`` would do.

    Only workloads of both are compared: a new or removed one has no clients to lose.

    Args:
        current: The manifests in force today.
        planned: The manifests after the change (see `troth.manifests.amend`).
        root_namespace: Where mesh-wide policies live.
        observed: Plaintext that a running mesh has seen, to name clients that really call.
    """
    comparison = _Comparison(_states(current, root_namespace), _states(planned, root_namespace))
    for each in observed:
        comparison.observe(each)
    changes = tuple(comparison.changes())
    breaks = tuple(comparison.breaks())
    unknown = tuple(_unknown(current, planned, root_namespace, tightened=comparison.tightens()))
    problems = tuple(each for each in planned.problems if each.severity is Severity.ERROR)
    return Plan(
        verdict=_verdict(breaks, unseen=bool(unknown or problems)),
        would_break=bool(breaks),
        changes=changes,
        breaks=breaks,
        unencrypted=tuple(comparison.unencrypted()),
        weaker=tuple(each for each in changes if _strength(each.after) < _strength(each.before)),
        unknown=unknown,
        exceptions=tuple(
            except_front_doors(planned, comparison.shut(), root_namespace=root_namespace)
        ),
        problems=problems,
        warnings=tuple(_new_warnings(current, planned, root_namespace)),
    )


def _verdict(breaks: Sequence[Affected], *, unseen: bool) -> Breakage:
    if any(port.seen for each in breaks for port in each.ports):
        return Breakage.SEEN
    if breaks:
        return Breakage.POSSIBLE
    return Breakage.UNKNOWN if unseen else Breakage.NONE


def _unknown(
    current: Manifests, planned: Manifests, root_namespace: str, *, tightened: bool
) -> Iterator[UnknownWorkload]:
    """Workloads of both sides with unknown pods, if the change may affect them.

    They may be clients of any port, and a change for their namespace may affect their pods.
    """
    yield from _hiding(current, planned)
    both = [
        each
        for each in planned.unknown_workloads
        if str(each) in current.custom_workloads
        and each.content == current.custom_workloads[str(each)].content
    ]
    places = {place for each in both for place in each.places}
    if "" in places:
        places |= current.namespaces.keys() | planned.namespaces.keys()
    if tightened or any(
        _rules(current, place, root_namespace) != _rules(planned, place, root_namespace)
        for place in places
    ):
        for each in both:
            yield _named(each, each.unknown)


def _hiding(current: Manifests, planned: Manifests) -> Iterator[UnknownWorkload]:
    """New, changed or removed objects that contain objects that may change modes."""
    before, after = current.custom_workloads, planned.custom_workloads
    for name in sorted(before.keys() | after.keys()):
        sides = [side[name] for side in (after, before) if name in side]
        hidden = [each for workload in sides for each in workload.hidden]
        stays = len(sides) > 1 and sides[0].content == sides[1].content
        if hidden and not stays:
            yield _named(sides[0], f"it holds other objects, such as {hidden[0]}")


def _named(workload: CustomWorkload, why: str) -> UnknownWorkload:
    name = WorkloadName(kind=workload.kind, namespace=workload.namespace, name=workload.name)
    return UnknownWorkload(workload=name, why=why)


def _rules(manifests: Manifests, namespace: str, root_namespace: str) -> object:
    """What decides about a pod of ``namespace``, whatever its labels and ports."""
    policies = [each for each in manifests.policies.values() if each.namespace == namespace]
    return (
        belongs(manifests, namespace, {}).in_mesh,
        PolicyIndex(manifests.policies.values(), root_namespace).decide(namespace, {}).mode,
        {(each.key, str(each.port_modes), each.mode) for each in policies if each.selector},
    )


def _new_warnings(current: Manifests, planned: Manifests, root_namespace: str) -> Iterator[Problem]:
    before = validate(current, root_namespace=root_namespace).problems
    for each in validate(planned, root_namespace=root_namespace).problems:
        if each.severity is Severity.WARNING and each not in before:
            yield each


def _strength(mode: Mode | None) -> int:
    return _STRENGTH.get(mode, 0) if mode else 0


class _State(NamedTuple):
    """A workload on one side of the change."""

    in_mesh: bool
    decision: Decision
    template: PodTemplate
    front_doors: Mapping[int, tuple[FrontDoor, ...]]

    def mode(self, port: int | None) -> Mode | None:
        """The mode in force; None outside the mesh."""
        if not self.in_mesh:
            return None
        return self.decision.mode if port is None else self.decision.mode_of(port)


def _states(manifests: Manifests, root_namespace: str) -> dict[WorkloadName, _State]:
    index = PolicyIndex(manifests.policies.values(), root_namespace)
    doors = FrontDoors(manifests)
    states = {}
    for each in manifests.templates:
        name = WorkloadName(kind=each.owner_kind or "Pod", namespace=each.namespace, name=each.name)
        member = belongs(manifests, each.namespace, each.labels, host_network=each.host_network)
        decision = index.decide(each.namespace, each.labels, tcp_ports(each))
        states[name] = _State(
            in_mesh=member.in_mesh,
            decision=decision,
            template=each,
            front_doors=doors.of(
                each.namespace, each.labels, each.ports, owner=each.owner or each.name
            ),
        )
    return states


class _Comparison:
    def __init__(
        self, before: dict[WorkloadName, _State], after: dict[WorkloadName, _State]
    ) -> None:
        self._before = before
        self._after = after
        self._both = sorted(before.keys() & after.keys())
        self._seen: dict[tuple[str, int], list[Plaintext]] = defaultdict(list)
        self._seen_ports: dict[str, set[int]] = defaultdict(set)
        self._will_be_in_mesh = {_key(name) for name, state in after.items() if state.in_mesh}

    def observe(self, seen: Plaintext) -> None:
        """Record observed plaintext, unless its client will be in the mesh."""
        if seen.source not in self._will_be_in_mesh:
            self._seen[seen.destination, seen.port].append(seen)
            self._seen_ports[seen.destination].add(seen.port)

    def shut(self) -> Iterator[tuple[PodTemplate, dict[int, tuple[FrontDoor, ...]]]]:
        """The workloads after the change whose front doors it closes, with these by port."""
        for name in self._both:
            ports = (self._port(name, port) for port in self._front_doors(name))
            shut = {
                each.port: each.front_doors
                for each in ports
                if each.port and each.after is Mode.STRICT and each.before is not Mode.STRICT
            }
            if shut:
                yield self._after[name].template, shut

    def changes(self) -> Iterator[Change]:
        for name in self._both:
            for port in (*self._ports(name), None):
                change = self._port(name, port)
                if change.before is not change.after:
                    yield Change(
                        workload=name,
                        port=port,
                        before=change.before,
                        after=change.after,
                        decided_by=change.decided_by,
                    )

    def breaks(self) -> Iterator[Affected]:
        """Pairs that aren't refused before, and are after."""
        strict = [port for port in self._all_ports() if port.after is Mode.STRICT]
        new = [port for port in strict if port.before is not Mode.STRICT]
        outside = self._clients(after=False)
        # Without a client by the manifests, only what was seen tells that somebody calls.
        called = new if outside else [port for port in new if port.seen]
        yield from _affected(outside, [replace(port, front_doors=()) for port in called])
        doors = [port for port in new if port.front_doors]
        yield from _affected((), [replace(port, seen=()) for port in doors])
        leaving = self._clients(before=True, after=False)
        if leaving:
            # What others sent to a port that was STRICT already is no news.
            yield from _affected(leaving, [port for port in strict if port.before is Mode.STRICT])

    def tightens(self) -> bool:
        """Whether any port refuses plaintext that it accepts today."""
        return any(
            port.after is Mode.STRICT and port.before is not Mode.STRICT
            for port in self._all_ports()
        )

    def unencrypted(self) -> Iterator[Affected]:
        """Pairs that are encrypted before, and plaintext after."""
        were = [port for port in self._all_ports() if port.before in _ENCRYPTED]
        clients = self._clients(before=True)
        if clients:
            yield from _affected(clients, [port for port in were if port.after not in _ENCRYPTED])
        leaving = self._clients(before=True, after=False)
        if leaving:
            yield from _affected(leaving, [port for port in were if port.after is Mode.PERMISSIVE])

    def _clients(
        self, *, before: bool | None = None, after: bool | None = None
    ) -> list[WorkloadName]:
        """The workloads that are in the mesh, or not, on either side of the change."""
        return [
            name
            for name in self._both
            if before in {None, self._before[name].in_mesh}
            and after in {None, self._after[name].in_mesh}
        ]

    def _all_ports(self) -> Iterator[PortChange]:
        """Every port that a client may know; if none is declared, all as one."""
        for name in self._both:
            for port in self._ports(name) or (None,):
                yield self._port(name, port)

    def _ports(self, name: WorkloadName) -> Sequence[int]:
        declared = (state[name].decision.ports for state in (self._before, self._after))
        led_to = self._front_doors(name)
        return sorted(set().union(*declared, led_to, self._seen_ports.get(_key(name), ())))

    def _front_doors(self, name: WorkloadName) -> dict[int, tuple[FrontDoor, ...]]:
        """Those before the change that are there after it, too."""
        before, after = self._before[name].front_doors, self._after[name].front_doors
        both = {
            port: tuple(door for door in after[port] if door in before[port])
            for port in before.keys() & after.keys()
        }
        return {port: doors for port, doors in both.items() if doors}

    def _port(self, name: WorkloadName, port: int | None) -> PortChange:
        state = self._after[name]
        decider = state.decision.decided_by if port is None else state.decision.decider_of(port)
        seen = () if port is None else self._seen.get((_key(name), port), ())
        return PortChange(
            workload=name,
            port=port,
            before=self._before[name].mode(port),
            after=state.mode(port),
            decided_by=decider if state.in_mesh else None,
            seen=tuple(seen),
            front_doors=self._front_doors(name).get(port or 0, ()),
        )


def _affected(clients: Sequence[WorkloadName], ports: Sequence[PortChange]) -> Iterator[Affected]:
    if ports:
        yield Affected(clients=tuple(clients), ports=tuple(ports))


def _key(name: WorkloadName) -> str:
    return f"{name.namespace}/{name.name}"
