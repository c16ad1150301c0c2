"""What Envoy is to be told of the world: at once what pods enforce, the rest as it can take it.

What pods enforce is little, and Envoy takes it within milliseconds. Where the mesh's pods are is
one listener with all of them in it; to take that over occupies Envoy's main thread for some 40 ms
with 5,000 pods of 200 identities. In a big mesh pods come and go all the time, and a policy would
wait behind each. So after one change of these destinations the next ones are held back for a while,
to be told together; and one that is known at the same time as a policy is told after it.

Where a change of modes concerns a pod and its clients, both are told step by step, each when Envoy
has the last one in force (`Changeover`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.agent.changeovers import Changeovers
from troth.envoy.snapshot import Snapshot
from troth.identity.bundle import TrustBundle
from troth.identity.svid import X509Svid
from troth.mesh.view import NodeView, ViewKeeper
from troth.table import difference

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from troth.envoy.build import SnapshotKeeper
    from troth.mesh.model import Ports
    from troth.mesh.view import Destination, LocalPod
    from troth.mesh.world import World
    from troth.policy.model import PeerAuthentication

_SECONDS_PER_DESTINATION = 20e-6
"""Of pause: a few times what Envoy needs, so that it is idle most of the time."""


class EnvoyCredentials(msgspec.Struct, frozen=True):
    """What Envoy proves itself by, and what it believes in."""

    svids: tuple[X509Svid, ...]
    bundle: TrustBundle


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What Envoy is to have.

    Attributes:
        view: All that it is to enforce.
        ready: UIDs of the pods that the snapshot has: those whose certificate is there.
        credentials: What it proves itself by and believes in.
        snapshot: What it is to be told.
        rest_at: When the snapshot may go on to the view's destinations; None if it has them.
        goes_on: Whether more is to be told once Envoy has this in force.
        waiting: UIDs of the pods that still take plaintext for clients on other nodes.
        until: When they, and others that wait for clients, are closed in any case; None if none is.
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
        """Whether it is all that follows from the world."""
        return self.rest_at is None and self.until is None and not self.goes_on


class ConfigurationKeeper:
    """Makes one configuration after another.

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
        netns: Mapping[str, Path],
        lenient: Collection[str],
        service_ranges: tuple[str, ...],
        credentials: EnvoyCredentials,
        now: float,
    ) -> Configuration:
        """Go on to what follows from ``world``.

        Args:
            world: Everything that is known.
            netns: Network namespaces of the pods that need Envoy's listeners, by UID.
            lenient: As of `troth.mesh.view.node_view`.
            service_ranges: As of `troth.mesh.view.node_view`.
            credentials: What Envoy is to prove itself by and believe in.
            now: By any clock that never goes back, in seconds.
        """
        view = self._views.update(
            world,
            netns={uid: str(path) for uid, path in netns.items()},
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
        """Take note that Envoy has in force all that the last update made."""
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
        """Go on to the destinations that are wanted, or say when that may be."""
        before, self._local_pods = self._local_pods, view.local_pods
        if wanted is self._destinations or not difference(self._destinations, wanted):
            return None
        # A pod that waits for its clients doesn't wait for a pause, too.
        if now < self._rest_at and not self._changeovers.hurries:
            return self._rest_at
        changed = before.keys() & difference(before, view.local_pods).upserted.keys()
        # Where clients have to hear of the same policy, it isn't for them to wait.
        if changed and all(wanted.get(uid) == self._destinations.get(uid) for uid in changed):
            return now
        self._destinations = wanted
        self._is_confirmed = False
        self._rest_at = now + len(wanted) * _SECONDS_PER_DESTINATION
        return None
