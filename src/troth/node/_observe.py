"""Connection events with names: who talked to whom, and which policy decided."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from troth.envoy import ConnectionEvent, Outcome, Reason, Side
from troth.policy import DecidedBy, Mode, PolicyIndex

if TYPE_CHECKING:
    from troth.mesh import World


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection.

    Attributes:
        address: Its IP.
        port: Its TCP port.
        pod: ``NAMESPACE/NAME`` where the address is a known pod's.
        workload: ``NAMESPACE/NAME`` of what a person deployed, where known.
    """

    address: str
    port: int
    pod: str | None = None
    workload: str | None = None


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One connection, as `ConnectionEvent` reports it, seen with the world of that moment.

    Attributes:
        mode: The destination port's effective mode, where the destination is in the mesh.
        decided_by: The scope and policy that set the mode.
    """

    time: datetime
    outcome: Outcome
    reason: Reason
    detail: str
    side: Side
    source: Party
    destination: Party
    peer: str | None
    claimed_peer: str | None
    mode: Mode | None
    decided_by: DecidedBy | None
    tls_version: str
    tls_cipher: str
    tls_group: str
    duration_ms: int


class Observer:
    """Names connections after the pods of one world; made anew when the world changes."""

    def __init__(self, world: World) -> None:
        self._index = PolicyIndex(world.policies, root_namespace=world.root_namespace)
        self._by_address = {
            address: pod for pod in world.pods.values() for address in pod.addresses
        }

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
            source=self._party(event.source_address, event.source_port),
            destination=self._party(event.destination_address, event.destination_port),
            peer=event.peer,
            claimed_peer=event.claimed_peer,
            mode=mode,
            decided_by=decided_by,
            tls_version=event.tls_version,
            tls_cipher=event.tls_cipher,
            tls_group=event.tls_group,
            duration_ms=event.duration_ms,
        )

    def _party(self, address: str, port: int) -> Party:
        pod = self._by_address.get(address)
        return Party(
            address=address,
            port=port,
            pod=str(pod) if pod else None,
            workload=pod.workload if pod else None,
        )
