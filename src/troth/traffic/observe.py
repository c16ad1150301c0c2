"""Gives a connection's ends names, and says which policy decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from troth.mesh.world import World
from troth.policy.index import PolicyChanges, PolicyIndex
from troth.table import difference
from troth.traffic.connection import Connection, ConnectionReport, Party, Reason, Side

if TYPE_CHECKING:
    from troth.mesh.model import Pod


class Observer:
    """Names connections after the pods of the current world."""

    def __init__(self, world: World) -> None:
        self._world = World(trust_domain=world.trust_domain, root_namespace=world.root_namespace)
        self._index = PolicyIndex((), world.root_namespace)
        self._by_address: dict[str, Pod] = {}
        self.follow(world)

    def follow(self, world: World) -> None:
        """Use a later world of the same mesh; the cost depends on what has changed."""
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
            if not pod.host_network:  # its addresses are the node's, shared by others
                self._by_address |= dict.fromkeys(pod.addresses, pod)

    def named(self, report: ConnectionReport) -> Connection | None:
        """The connection with names, and with the mode in force.

        None if its own end's address isn't known and the pod is gone.
        """
        connection, reporter = report.connection, self._world.pods.get(report.pod)
        by_client = connection.side is Side.CLIENT
        source, destination = connection.source.address, connection.destination.address
        if not (source if by_client else destination):
            if reporter is None or not reporter.addresses:
                return None
            source = _own(reporter, destination) if by_client else source
            destination = destination if by_client else _own(reporter, source)
        # A loopback connection is the pod's own, too.
        client = reporter if by_client else self._by_address.get(source)
        server = self._by_address.get(destination)
        mode, decided_by, port = None, None, connection.destination.port
        if server is not None and server.captured and connection.reason not in _UNJUDGED:
            verdict = self._index.decide(server.namespace, server.labels, [port])
            mode, decided_by = verdict.mode_of(port), verdict.decider_of(port)
        return msgspec.structs.replace(
            connection,
            source=_party(client, source, connection.source.port),
            destination=_party(server, destination, port),
            mode=mode,
            decided_by=decided_by,
        )


_UNJUDGED = frozenset(
    {Reason.TOO_MANY_CONNECTIONS, Reason.TOO_MANY_UNPROVED, Reason.NODE_OVERLOADED}
)
"""Reasons for which connections end before any policy applies."""


def _own(pod: Pod, other: str) -> str:
    """The pod's address of the same family as ``other``; its first if that isn't known."""
    same = (ip for ip in pod.addresses if not other or (":" in ip) is (":" in other))
    return next(same, pod.addresses[0])


def _party(pod: Pod | None, address: str, port: int) -> Party:
    return Party(
        address=address,
        port=port,
        pod=str(pod) if pod else None,
        workload=pod.workload if pod else None,
    )
