"""PeerAuthentications that make STRICT what is ready for it, and change nothing else.

If all workloads of a namespace are ready, it gets one policy. Otherwise each workload with a ready
port gets its own, which leaves ports that are not ready as they are. No policy is proposed if one
of the same scope exists: only the older of two counts, so that one has to be edited. Every proposal
is tried first: it must make STRICT exactly what it should, and leave all other ports of all
workloads alone.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import msgspec

from troth.explain.audit_report import LeftOut, PortAudit, PortState, Proposal
from troth.explain.front_doors import worst
from troth.explain.remedies import stable_labels
from troth.policy.index import PolicyIndex
from troth.policy.model import Mode, PeerAuthentication
from troth.policy.scope import Scope
from troth.policy.verdict import PolicyOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from troth.explain.audit_report import WorkloadAudit
    from troth.explain.front_doors import Breakage, FrontDoor
    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import PodTemplate
    from troth.mesh.model import Pod
    from troth.mesh.world import World

_LONGEST_NAME = 253
_SUFFIX = "-mtls"
_DOOR_SUFFIX = "-front-door"

Modes = dict[tuple[str, int | None], Mode]


def propose(
    workloads: Sequence[WorkloadAudit],
    world: World,
    selectors: Mapping[str, Mapping[str, str]],
    *,
    unseen: Breakage,
) -> tuple[tuple[Proposal, ...], tuple[LeftOut, ...]]:
    """The policies that are safe now, and why there is none for the others.

    Args:
        workloads: The audit of each.
        world: The current world.
        selectors: The labels by which a workload (``NAMESPACE/NAME``) selects its pods.
        unseen: Whether STRICT may refuse unseen clients at unknown ports.
    """
    proposer = _Proposer(workloads, world, selectors, unseen)
    for namespace in sorted({each.namespace for each in workloads}):
        proposer.consider([each for each in workloads if each.namespace == namespace])
    return tuple(proposer.proposals), tuple(proposer.left_out)


def except_front_doors(
    planned: Manifests,
    shut: Iterable[tuple[PodTemplate, Mapping[int, tuple[FrontDoor, ...]]]],
    *,
    root_namespace: str,
) -> Iterator[Proposal]:
    """The policies that leave PERMISSIVE what a change would make STRICT at front doors.

    Args:
        planned: The manifests after the change.
        shut: The workloads, with their front doors by port.
        root_namespace: Where mesh-wide policies live; no workload can have an exception there.
    """
    policies = dict(planned.policies)
    controllers = (*planned.deployments.values(), *planned.workloads.values())
    selectors = {str(each.template): each.selector for each in controllers}
    proposed: dict[str, tuple[list[str], dict[int, str]]] = {}
    for template, doors in shut:
        if template.namespace == root_namespace or not stable_labels(template.labels):
            continue
        decided = PolicyIndex(policies.values(), root_namespace).effective(
            template.namespace, template.labels
        )
        # Only one of several policies for a workload counts: that one has to make the exception.
        counting = next(
            (
                policies[each.policy]
                for each in decided.considered
                if each.scope is Scope.WORKLOAD
                and each.verdict in {PolicyOutcome.DECIDES, PolicyOutcome.INHERITS}
            ),
            None,
        )
        policy = counting or PeerAuthentication(
            namespace=template.namespace,
            name=_free_name(
                policies.values(),
                template.namespace,
                template.name[: _LONGEST_NAME - len(_DOOR_SUFFIX)].rstrip("-.") + _DOOR_SUFFIX,
            ),
            selector=selectors.get(str(template)) or stable_labels(template.labels),
        )
        excepted = dict.fromkeys(doors, Mode.PERMISSIVE)
        policies[policy.key] = msgspec.structs.replace(
            policy, port_modes={**policy.port_modes, **excepted}
        )
        workloads, why = proposed.setdefault(policy.key, ([], {}))
        workloads.append(f"{template.namespace}/{template.name}")
        why |= {port: _why_front_door(port, each) for port, each in doors.items()}
    for key, (workloads, why) in proposed.items():
        yield Proposal(
            workloads=tuple(workloads),
            exceptions=why,
            manifest=policies[key].manifest,
            replaces=key in planned.policies,
        )


def _why_front_door(port: int, doors: Iterable[FrontDoor]) -> str:
    by: dict[str, list[str]] = {}
    for door in doors:
        by.setdefault(door.clients, []).append(str(door))
    came = " and ".join(f"{clients} by {', '.join(names)}" for clients, names in by.items())
    return f"port {port} is for {came}"


def _free_name(policies: Iterable[PeerAuthentication], namespace: str, wanted: str) -> str:
    taken = {policy.name for policy in policies if policy.namespace == namespace}
    if wanted not in taken:
        return wanted
    short = wanted[: _LONGEST_NAME - 4]
    return next(name for n in count(2) if (name := f"{short}-{n}") not in taken)


class _Proposer:
    def __init__(
        self,
        workloads: Sequence[WorkloadAudit],
        world: World,
        selectors: Mapping[str, Mapping[str, str]],
        unseen: Breakage,
    ) -> None:
        self._unseen = unseen
        self.proposals: list[Proposal] = []
        self.left_out: list[LeftOut] = []
        self._workloads = workloads
        self._root_namespace = world.root_namespace
        self._policies = list(world.policies)
        self._selectors = selectors
        self._pods: dict[str, list[Pod]] = {}
        for pod in world.pods.values():
            self._pods.setdefault(pod.workload, []).append(pod)

    def consider(self, workloads: Sequence[WorkloadAudit]) -> None:
        """Propose all possible policies for one namespace."""
        wanting = [each for each in workloads if not _is_strict(each)]
        if wanting and all(each.ready for each in workloads) and self._whole(workloads, wanting):
            return
        for each in wanting:
            why = self._single(each)
            if why:
                self.left_out.append(LeftOut(workload=each.key, why=why))

    def _whole(self, workloads: Sequence[WorkloadAudit], wanting: Sequence[WorkloadAudit]) -> bool:
        """Propose one policy for a whole namespace, if that suffices."""
        namespace = workloads[0].namespace
        if namespace == self._root_namespace or any(
            policy.namespace == namespace and not policy.selector for policy in self._policies
        ):
            return False
        policy = PeerAuthentication(
            namespace=namespace,
            name=_free_name(self._policies, namespace, "default"),
            mode=Mode.STRICT,
        )
        wanted = self._modes()
        for each in workloads:
            for port in (None, *each.ports):
                if port is None or each.ports[port].state is not PortState.LEFT_OPEN:
                    wanted[each.key, port] = Mode.STRICT
        return self._accept(policy, wanted, wanting, exceptions={})

    def _single(self, workload: WorkloadAudit) -> str:
        """Propose a policy for one workload; returns why there is none."""
        namespace = workload.namespace
        if not workload.captured:
            return f"is not captured: {workload.why}"
        kept = {n: port for n, port in workload.ports.items() if not port.state.is_ready}
        why = {number: _why_kept(number, port) for number, port in kept.items()}
        states = {port.state for port in workload.ports.values()}
        if kept and states.isdisjoint({PortState.READY, PortState.FRONT_DOOR}):
            return "; ".join(why.values())
        if namespace == self._root_namespace:
            return f"is in {namespace}, whose policies hold for the whole mesh"
        pod = self._pods[workload.key][0]
        for policy in self._policies:
            if (
                policy.namespace == namespace
                and policy.selector
                and policy.selector.items() <= pod.labels.items()
            ):
                return f"has a policy of its own, {policy.key}: change that one"
        exceptions = {number: port.mode for number, port in kept.items()}
        wanted = self._modes()
        for number in (None, *workload.ports):
            if number not in exceptions:
                wanted[workload.key, number] = Mode.STRICT
        for selector in self._candidates(workload.key, pod):
            policy = PeerAuthentication(
                namespace=namespace,
                name=_free_name(
                    self._policies,
                    namespace,
                    workload.name[: _LONGEST_NAME - len(_SUFFIX)].rstrip("-.") + _SUFFIX,
                ),
                selector=selector,
                mode=Mode.STRICT,
                port_modes=exceptions,
            )
            if self._accept(policy, wanted, [workload], exceptions=why):
                return ""
        return "has no labels that are its own alone"

    def _candidates(self, workload: str, pod: Pod) -> Iterator[Mapping[str, str]]:
        """Labels to select a workload by, the best first."""
        for labels in (self._selectors.get(workload), pod.labels):
            if stable := stable_labels(labels or {}):
                yield stable

    def _accept(
        self,
        policy: PeerAuthentication,
        wanted: Modes,
        workloads: Sequence[WorkloadAudit],
        *,
        exceptions: Mapping[int, str],
    ) -> bool:
        """Try a policy; propose it if every mode comes out as wanted."""
        self._policies.append(policy)
        if self._modes() != wanted:
            self._policies.pop()
            return False
        self.proposals.append(
            Proposal(
                workloads=tuple(each.key for each in workloads),
                exceptions=exceptions,
                manifest=policy.manifest,
                verdict=worst(
                    verdict
                    for each in workloads
                    for verdict in (
                        [
                            port.verdict
                            for number, port in each.ports.items()
                            if number not in exceptions and port.state is not PortState.LEFT_OPEN
                        ]
                        if each.ports or each.mode is Mode.STRICT
                        else [self._unseen]
                    )
                ),
            )
        )
        return True

    def _modes(self) -> Modes:
        """The mode of every port in the mesh, and of those that are not known (None)."""
        index = PolicyIndex(self._policies, root_namespace=self._root_namespace)
        modes: Modes = {}
        for each in self._workloads:
            pod = self._pods[each.key][0]
            decision = index.decide(pod.namespace, pod.labels, each.ports)
            modes[each.key, None] = decision.mode
            modes |= {(each.key, number): decision.mode_of(number) for number in each.ports}
        return modes


def _is_strict(workload: WorkloadAudit) -> bool:
    return workload.mode is Mode.STRICT and all(
        port.state in {PortState.STRICT, PortState.LEFT_OPEN} for port in workload.ports.values()
    )


def _why_kept(number: int, port: PortAudit) -> str:
    match port.state:
        case PortState.PLAINTEXT:
            sources = ", ".join(client.source for client in port.because_of)
            return f"port {number} takes plaintext from {sources}"
        case PortState.DISABLED:
            return f"port {number} is DISABLE by {port.decided_by}"
        case PortState.FRONT_DOOR:
            return _why_front_door(number, port.front_doors)
        case _:
            return f"port {number} has had no traffic"
