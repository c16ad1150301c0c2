"""Connection events with names: who talked to whom, and which policy decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.envoy.events import ConnectionEvent
from troth.envoy.ports import TUNNEL_PORT
from troth.mesh.world import World
from troth.policy.index import PolicyChanges, PolicyIndex
from troth.table import difference
from troth.traffic.connection import Connection, Outcome, Party, Reason, Side

if TYPE_CHECKING:
    from datetime import datetime

    from troth.agent.strangers import Dropped
    from troth.agent.unserved import UnservedConnections
    from troth.envoy.overflow import Overflow
    from troth.mesh.model import Pod


class Observer:
    """Names connections after the pods of the world as it is."""

    def __init__(self, world: World) -> None:
        self._world = World(trust_domain=world.trust_domain, root_namespace=world.root_namespace)
        self._index = PolicyIndex((), world.root_namespace)
        self._by_address: dict[str, Pod] = {}
        self.follow(world)

    def follow(self, world: World) -> None:
        """Go on to a later state of the same mesh; costs what has changed in between."""
        before, self._world = self._world, world
        self._index = self._index.changed(PolicyChanges.between(before.policies, world.policies))
        pods = difference(before.pods, world.pods)
        former = [before.pods[uid] for uid in pods.upserted if uid in before.pods]
        for pod in (*pods.removed.values(), *former):
            for address in pod.addresses:
                holder = self._by_address.get(address)
                if holder is not None and holder.uid == pod.uid:
                    del self._by_address[address]
        for pod in pods.upserted.values():
            self._by_address |= dict.fromkeys(pod.addresses, pod)

    def connection(self, event: ConnectionEvent) -> Connection:
        """The event with names, and with the mode that was in force for it."""
        destination = self._by_address.get(event.destination_address)
        mode, decided_by = None, None
        if destination is not None and destination.captured:
            verdict = self._index.decide(
                destination.namespace, destination.labels, [event.destination_port]
            )
            mode = verdict.mode_of(event.destination_port)
            decided_by = verdict.decider_of(event.destination_port)
        return Connection(
            time=event.time,
            outcome=event.outcome,
            reason=event.reason,
            detail=event.detail,
            side=event.side,
            source=_party(self._source(event), event.source_address, event.source_port),
            destination=_party(destination, event.destination_address, event.destination_port),
            peer=event.peer,
            claimed_peer=event.claimed_peer,
            mode=mode,
            decided_by=decided_by,
            tls_version=event.tls_version,
            tls_cipher=event.tls_cipher,
            tls_group=event.tls_group,
            duration_ms=event.duration_ms,
        )

    def overflow(self, overflow: Overflow, now: datetime) -> Connection | None:
        """Connections that were too many, as one event; None if the pod is gone.

        Nothing is known of their other ends.
        """
        pod = self._world.pods.get(overflow.pod)
        if pod is None or not pod.addresses:
            return None
        own, others = _party(pod, pod.addresses[0], 0), Party(address="", port=0)
        source, destination = (own, others) if overflow.side is Side.CLIENT else (others, own)
        return Connection(
            time=now,
            count=overflow.count,
            outcome=Outcome.FAILED,
            reason=overflow.reason,
            detail=overflow.detail,
            side=overflow.side,
            source=source,
            destination=destination,
        )

    def dropped(self, dropped: Dropped, now: datetime) -> Connection | None:
        """What was dropped of a stranger, as one event; None if the pod is gone."""
        pod = self._world.pods.get(dropped.pod)
        if pod is None or not pod.addresses:
            return None
        return Connection(
            time=now,
            count=dropped.count,
            outcome=Outcome.REFUSED,
            reason=Reason.TOO_MANY_UNPROVED,
            detail="by itself" if dropped.alone else "together with others",
            side=Side.SERVER,
            source=_party(self._by_address.get(dropped.address), dropped.address, 0),
            destination=_party(pod, _own(pod, dropped.address), TUNNEL_PORT),
        )

    def unserved(self, refused: UnservedConnections, now: datetime) -> ConnectionEvent | None:
        """What a pod's kernel has refused, as an event of one of them; None if the pod is gone."""
        pod = self._world.pods.get(refused.pod)
        if pod is None or not pod.addresses:
            return None
        source, destination = _own(pod, refused.address), refused.address
        if refused.side is Side.SERVER:
            source, destination = destination, source
        return ConnectionEvent(
            time=now,
            outcome=Outcome.FAILED,
            reason=refused.reason,
            side=refused.side,
            pod=refused.pod,
            source_address=source,
            source_port=0,
            destination_address=destination,
            destination_port=refused.port,
        )

    def _source(self, event: ConnectionEvent) -> Pod | None:
        if event.side is Side.CLIENT:  # also what the pod does over its loopback is its own doing
            return self._world.pods.get(event.pod)
        return self._by_address.get(event.source_address)


def _own(pod: Pod, other: str) -> str:
    """The pod's address of the same family as another's."""
    return next((ip for ip in pod.addresses if (":" in ip) is (":" in other)), pod.addresses[0])


def _party(pod: Pod | None, address: str, port: int) -> Party:
    return Party(
        address=address,
        port=port,
        pod=str(pod) if pod else None,
        workload=pod.workload if pod else None,
    )
