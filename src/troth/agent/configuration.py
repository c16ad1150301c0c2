"""Envoy's configuration for the world: what pods enforce at once, the rest at Envoy's pace.

What pods enforce is little, and Envoy accepts it within milliseconds. The locations of the mesh's
pods are one listener; reloading it occupies Envoy's main thread for some 40 ms with 5,000 pods of
200 identities. In a big mesh pods come and go all the time, and a policy would wait behind each. So
after a change of these destinations the next ones are delayed and batched; and one that comes
together with a policy is pushed after it.

If a change of modes affects a pod and its clients, both are pushed step by step, each when Envoy
has the last one in force (`Changeover`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.envoy.snapshot import Snapshot
from troth.identity.bundle import TrustBundle
from troth.identity.svid import X509Svid
from troth.mesh.changeover import Changeover, Wanted
from troth.mesh.model import ALL_PORTS, NO_PORTS
from troth.mesh.view import NodeView, ViewKeeper
from troth.table import Table, difference

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from troth.envoy.build import SnapshotKeeper
    from troth.mesh.model import Ports
    from troth.mesh.view import Destination, LocalPod
    from troth.mesh.world import World
    from troth.policy.model import PeerAuthentication


_SECONDS_PER_DESTINATION = 20e-6
"""The pause: several times what Envoy needs, so that it is idle most of the time."""


class Changeovers:
    """All changes of mode under way on a node: the progress of each pod and its clients.

    Args:
        alone: Whether there is no other node.

    Attributes:
        until: When a pod that still accepts plaintext for its clients stops in any case; None if
            there is none.
        waiting: UIDs of the pods that still accept it for clients on other nodes.
        hurries: Whether a pod still accepts it for clients on this node.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._of: dict[str, Changeover] = {}
        self._wanted: dict[str, Wanted] = {}
        self._from: dict[str, tuple[LocalPod, Destination | None, Ports]] = {}
        self._sent: dict[str, Ports] = {}
        # Where clients elsewhere have had a reason to send plaintext, as far as they may still.
        self._sent_elsewhere: dict[str, Ports] = {}
        self._busy: set[str] = set()
        self._policies: tuple[PeerAuthentication, ...] = ()
        self._heard = False
        self.until: float | None = None
        self.waiting: frozenset[str] = frozenset()
        self.hurries = False

    def step(self, view: NodeView, policies: tuple[PeerAuthentication, ...], *, now: float) -> None:
        """Move towards ``view``, which derives from ``policies``, as far as possible now."""
        if policies is not self._policies and policies != self._policies:
            self._policies, self._heard = policies, False
        for uid in self._of.keys() - view.local_pods.keys():
            self._forget(uid)
        for uid, local in view.local_pods.items():
            if self._want(uid, local, view.destinations.get(uid)):
                self._busy.add(uid)
        for uid in self._busy:
            wanted, known = self._wanted[uid], self._of.get(uid)
            self._of[uid] = (
                known.step(wanted, now=now, heard=self._heard)
                if known is not None
                else Changeover.begin(wanted, now=now)
            )
        late = [(uid, self._of[uid], self._wanted[uid]) for uid in self._busy]
        late = [each for each in late if each[1].until is not None]
        self.until = min((of.until for _, of, _ in late if of.until is not None), default=None)
        self.waiting = frozenset(
            uid for uid, of, wanted in late if of.takes & ~wanted.takes & of.elsewhere
        )
        self.hurries = any(of.takes & ~wanted.takes & of.maybe_sent for _, of, wanted in late)

    def held(self, uid: str, local: LocalPod) -> LocalPod:
        """A pod as Envoy should see it now."""
        takes = self._of[uid].takes
        if takes == self._wanted[uid].takes:
            return local
        return msgspec.structs.replace(local, held=takes)

    def reached(self, destinations: Mapping[str, Destination]) -> Mapping[str, Destination]:
        """The destinations as Envoy should see them now."""
        other = {
            uid: there.reached(self._of[uid].sent)
            for uid in self._busy
            if (there := destinations.get(uid)) is not None
            and there.plaintext != self._of[uid].sent
        }
        if not other:
            return destinations
        assert isinstance(destinations, Table)  # noqa: S101 - `ViewKeeper` makes them one
        return destinations.changed(other)

    def told(self, destinations: Mapping[str, Destination]) -> None:
        """Record the destinations that are pushed to Envoy now."""
        for uid in tuple(self._busy):
            there = destinations.get(uid)
            # For a pod that they don't know yet, clients start at the goal.
            sent = there.plaintext if there is not None else self._strangers_send(uid)
            if self._sent.get(uid) != sent:
                self._sent[uid] = sent
                self._of[uid] = self._of[uid].told(sent)
            self._rest(uid)

    def confirm(self) -> None:
        """Record that Envoy has its whole configuration in force."""
        for uid in tuple(self._busy):
            self._of[uid] = self._of[uid].confirmed(self._sent[uid])
            self._rest(uid)

    def hear(self, policies: tuple[PeerAuthentication, ...]) -> None:
        """Record that all other nodes' pods, as clients, follow ``policies`` now.

        Any change of policies invalidates this, even if they have changed back.
        """
        self._heard = policies == self._policies

    @property
    def goes_on(self) -> bool:
        """Whether there may be more to push once Envoy has the last push in force."""
        return any(
            of.maybe_sent != self._sent[uid] or of.surely_takes != of.takes
            for uid in self._busy
            for of in (self._of[uid],)
        )

    @property
    def offers(self) -> Mapping[str, Ports]:
        """Ports to which pods of other nodes may be told to send plaintext, by UID."""
        return {uid: ports for uid in self._of if (ports := self._offer(uid))}

    def _forget(self, uid: str) -> None:
        for each in (self._of, self._wanted, self._from, self._sent, self._sent_elsewhere):
            each.pop(uid, None)
        self._busy.discard(uid)

    def _rest(self, uid: str) -> None:
        """Drop the state of a pod that has reached its goal."""
        of, wanted = self._of[uid], self._wanted[uid]
        if (
            of.until is None
            and of.moved is None
            and of.takes == of.surely_takes == wanted.takes
            and of.maybe_sent == self._sent[uid] == wanted.sent
        ):
            self._busy.discard(uid)

    def _want(self, uid: str, local: LocalPod, there: Destination | None) -> bool:
        """Set the goal of a pod; return whether it has changed."""
        offer = NO_PORTS if self._alone or uid not in self._of else self._offer(uid)
        known = self._from.get(uid)
        if known and known[0] is local and known[1] is there and known[2] == offer:
            return False
        self._from[uid] = (local, there, offer)
        strangers = ALL_PORTS if local.lenient else NO_PORTS
        sent = there.plaintext if there is not None else NO_PORTS
        # Who may write to the pod may write its annotation, too. So it counts only where a policy
        # that this agent has known had clients send plaintext. What others make of one that was
        # there before is a matter of seconds, and no reason to open what the policy closes.
        offered = offer | (local.pod.plaintext & (self._sent_elsewhere.get(uid, NO_PORTS) | sent))
        self._sent_elsewhere[uid] = offered | sent
        self._wanted[uid] = Wanted(
            takes=local.plaintext,
            sent=sent if there is not None else strangers,
            offered=NO_PORTS if self._alone else offered,
            labels=local.pod.labels,
        )
        return True

    def _offer(self, uid: str) -> Ports:
        local, there, _ = self._from[uid]
        if there is None or (there.tunnel and not there.exceptions) or not local.pod.captured:
            return NO_PORTS
        return there.plaintext & self._of[uid].surely_takes

    def _strangers_send(self, uid: str) -> Ports:
        local, there, _ = self._from[uid]
        return ALL_PORTS if local.lenient or there is not None else NO_PORTS


class EnvoyCredentials(msgspec.Struct, frozen=True):
    """Envoy's certificates, and the roots it trusts."""

    svids: tuple[X509Svid, ...]
    bundle: TrustBundle


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """Envoy's configuration at one moment.

    Attributes:
        view: What it should enforce in the end.
        ready: UIDs of the pods in the snapshot: those that have a certificate.
        credentials: Its certificates, and the roots it trusts.
        snapshot: The resources to push.
        rest_at: When the snapshot may get the view's destinations; None if it has them.
        goes_on: Whether there is more to push once Envoy has this in force.
        waiting: UIDs of the pods that still accept plaintext for clients on other nodes.
        until: When they, and others that wait for clients, close in any case; None if none waits.
        prune_at: As of `SnapshotKeeper`.
    """

    view: NodeView
    ready: frozenset[str]
    credentials: EnvoyCredentials
    snapshot: Snapshot
    rest_at: float | None = None
    goes_on: bool = False
    waiting: frozenset[str] = frozenset()
    until: float | None = None
    prune_at: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether it is complete for its world."""
        return self.rest_at is None and self.until is None and not self.goes_on


class ConfigurationKeeper:
    """Makes successive configurations.

    Args:
        snapshots: Builds Envoy's resources.
        alone: Whether there are no nodes but this one.
    """

    def __init__(self, snapshots: SnapshotKeeper, *, alone: bool = True) -> None:
        self._changeovers = Changeovers(alone=alone)
        self._is_confirmed = True
        self._views = ViewKeeper()
        self._snapshots = snapshots
        self._destinations: Mapping[str, Destination] = {}
        self._local_pods: Mapping[str, LocalPod] = {}
        self._rest_at = 0.0

    def update(
        self,
        world: World,
        *,
        netns: Mapping[str, str],
        lenient: Collection[str],
        service_ranges: tuple[str, ...],
        credentials: EnvoyCredentials,
        now: float,
    ) -> Configuration:
        """The configuration for ``world``.

        Args:
            world: Everything that is known.
            netns: Network namespaces of the pods that need Envoy's listeners, by UID.
            lenient: As of `troth.mesh.view.node_view`.
            service_ranges: As of `troth.mesh.view.node_view`.
            credentials: Envoy's certificates, and the roots to trust.
            now: The time of a monotonic clock, in seconds.
        """
        view = self._views.update(
            world,
            netns=netns,
            lenient=lenient,
            service_ranges=service_ranges,
        )
        certified = {svid.spiffe_id for svid in credentials.svids}
        # Envoy holds all listeners back while one of its clusters waits for a secret.
        ready = {uid: each for uid, each in view.local_pods.items() if each.identity in certified}
        modes = self._changeovers
        modes.step(view, world.policies, now=now)
        rest_at = self._pace(view, modes.reached(view.destinations), now)
        modes.told(self._destinations)
        snapshot = self._snapshots.update(
            msgspec.structs.replace(
                view,
                local_pods={uid: modes.held(uid, each) for uid, each in ready.items()},
                destinations=self._destinations,
            ),
            credentials.svids,
            credentials.bundle,
            now=now,
        )
        return Configuration(
            view=view,
            ready=frozenset(ready),
            credentials=credentials,
            snapshot=snapshot,
            rest_at=rest_at,
            goes_on=modes.goes_on or not self._is_confirmed,
            waiting=modes.waiting,
            until=modes.until,
            prune_at=self._snapshots.prune_at,
        )

    def confirm(self) -> None:
        """Record that Envoy has the last update's result in force."""
        self._is_confirmed = True
        self._changeovers.confirm()

    def hear(self, policies: tuple[PeerAuthentication, ...]) -> None:
        """As of `Changeovers.hear`."""
        self._changeovers.hear(policies)

    @property
    def offers(self) -> Mapping[str, Ports]:
        """As of `Changeovers.offers`."""
        return self._changeovers.offers

    def _pace(self, view: NodeView, wanted: Mapping[str, Destination], now: float) -> float | None:
        """Use the wanted destinations, or return when that will be allowed."""
        before, self._local_pods = self._local_pods, view.local_pods
        if wanted is self._destinations or not difference(self._destinations, wanted):
            return None
        # A pod that waits for its clients must not wait for a pause, too.
        if now < self._rest_at and not self._changeovers.hurries:
            return self._rest_at
        changed = before.keys() & difference(before, view.local_pods).upserted.keys()
        # If clients need the same policy, they must not wait either.
        if changed and all(wanted.get(uid) == self._destinations.get(uid) for uid in changed):
            return now
        self._destinations = wanted
        self._is_confirmed = False
        self._rest_at = now + len(wanted) * _SECONDS_PER_DESTINATION
        return None
