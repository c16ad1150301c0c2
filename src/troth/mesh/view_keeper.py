"""A node's view kept up to date: a change costs what it touches, however large the mesh is."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from troth._table import Table, difference
from troth.identity.spiffe import SpiffeId
from troth.mesh.service_addresses import ServiceAddresses
from troth.mesh.view import Destination, LocalPod, NodeView, destination
from troth.mesh.workloads import Workloads
from troth.mesh.world import World
from troth.policy.changes import PolicyChanges
from troth.policy.resolve import PolicyIndex

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from troth.identity.spiffe import TrustDomain
    from troth.mesh.model import Pod
    from troth.policy.verdict import Decision


class ViewKeeper:
    """Gives for one world after another what `node_view` would, derived from the last one.

    It finds what is different in a world by identity, so worlds should share what they have in
    common. Where their pods and services are a `Table`, nothing else is looked at.
    """

    def __init__(self) -> None:
        self._past: _Past | None = None

    def update(
        self,
        world: World,
        *,
        netns: Mapping[str, str],
        lenient: Collection[str] = (),
        service_ranges: tuple[str, ...] = (),
    ) -> NodeView:
        """The view of a world; arguments as of `node_view`."""
        # What fails half-way is not gone on from.
        past, self._past = self._past, None
        if past is None or not past.goes_on(world, service_ranges):
            past = _Past(world, service_ranges)
        view = past.update(world, netns=netns, lenient=lenient)
        self._past = past
        return view


class _Past:
    """All that is known of the last world, of one mesh and with the same service ranges."""

    def __init__(self, world: World, service_ranges: tuple[str, ...]) -> None:
        self._world = World(trust_domain=world.trust_domain, root_namespace=world.root_namespace)
        self._service_ranges = service_ranges
        self._index = PolicyIndex((), world.root_namespace)
        self._workloads = Workloads(world.root_namespace)
        self._addresses = ServiceAddresses(service_ranges)
        self._netns: Mapping[str, str] = {}
        self._view = NodeView(destinations=Table())

    def goes_on(self, world: World, service_ranges: tuple[str, ...]) -> bool:
        """Whether ``world`` is a later one of the same mesh."""
        return (
            world.trust_domain == self._world.trust_domain
            and world.root_namespace == self._world.root_namespace
            and service_ranges == self._service_ranges
        )

    def update(
        self, world: World, *, netns: Mapping[str, str], lenient: Collection[str]
    ) -> NodeView:
        """Go on to ``world``."""
        before, view = self._world, self._view
        pods = difference(before.pods, world.pods)
        for uid in pods.removed:
            self._workloads.drop(uid)
        touched = self._follow_policies(PolicyChanges.between(before.policies, world.policies))
        touched |= pods.upserted.keys() | (netns.keys() ^ self._netns.keys())
        touched -= pods.removed.keys()
        self._world, self._netns = world, dict(netns)

        destinations = self._destinations(world, touched, pods.removed)
        self._addresses.follow(
            difference(before.services, world.services),
            before.services,
            difference(view.destinations, destinations),
            view.destinations,
        )
        self._view = NodeView(
            local_pods=self._local_pods(touched, lenient),
            destinations=destinations,
            services=world.services,
            service_ranges=(*self._service_ranges, *self._addresses.outside),
            external_ports=self._addresses.external_ports,
        )
        return self._view

    def _follow_policies(self, changes: PolicyChanges) -> set[str]:
        """The pods for which something else holds now."""
        if not changes:
            return set()
        self._index = self._index.changed(changes)
        return {
            uid
            for policy in changes.all
            for workload in self._workloads.touched(policy)
            if workload.decide(self._index)
            for uid in workload.uids
        }

    def _destinations(
        self, world: World, touched: Iterable[str], removed: Iterable[str]
    ) -> Table[Destination]:
        known = self._view.destinations
        assert isinstance(known, Table)  # noqa: S101 - set by us
        upserted, gone = {}, [uid for uid in removed if uid in known]
        for uid in touched:
            pod = world.pods.get(uid)
            if pod is None:
                continue
            if not pod.captured and uid not in self._netns:
                self._workloads.drop(uid)
            if pod.captured and pod.addresses:
                upserted[uid] = destination(
                    pod, self._identity(pod), self._decision(pod), local=uid in self._netns
                )
            elif uid in known:
                gone.append(uid)
        changed = {uid: each for uid, each in upserted.items() if known.get(uid) != each}
        return known.changed(changed, gone) if changed or gone else known

    def _local_pods(
        self, touched: Collection[str], lenient: Collection[str]
    ) -> Mapping[str, LocalPod]:
        pods, former = self._world.pods, self._view.local_pods
        now = {}
        for uid, path in sorted(self._netns.items()):
            pod, known = pods.get(uid), former.get(uid)
            if pod is None:
                continue
            if known is not None and uid not in touched:
                now[uid] = msgspec.structs.replace(known, netns=path, lenient=uid in lenient)
            else:
                now[uid] = LocalPod(
                    pod=pod,
                    netns=path,
                    identity=self._identity(pod),
                    verdict=self._decision(pod),
                    lenient=uid in lenient,
                )
        return {uid: each if each != former.get(uid) else former[uid] for uid, each in now.items()}

    def _decision(self, pod: Pod) -> Decision:
        return self._workloads.put(pod, self._index).decision

    def _identity(self, pod: Pod) -> SpiffeId:
        return _identity(self._world.trust_domain, pod.namespace, pod.service_account)


@lru_cache(maxsize=4096)
def _identity(trust_domain: TrustDomain, namespace: str, service_account: str) -> SpiffeId:
    return SpiffeId.for_service_account(trust_domain, namespace, service_account)
