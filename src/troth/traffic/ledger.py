"""The destination of Envoy's reports: connections are kept, journaled and counted."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.mesh.ports import TUNNEL_PORT
from troth.traffic.connection import Connection, Reason
from troth.traffic.history import History
from troth.traffic.journal import Journal
from troth.traffic.observe import Observer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from troth.mesh.model import Pod
    from troth.mesh.target import Target
    from troth.mesh.world import World
    from troth.traffic.connection import ConnectionReport, Side


class Connections(History[Connection]):
    """The newest connections of a node's pods; knows which of them `troth trace` made.

    If traces counted as traffic, a port that nobody uses would look ready for STRICT, and `troth
    why` would explain the refusals of a trace's impostors.
    """

    def __init__(self) -> None:
        super().__init__()
        self._expected: list[_Expected] = []

    def expect(self, source: Pod, target: Target, *, own_port: int | None, seconds: float) -> None:
        """Announce a connection that is about to be made for a trace.

        Args:
            source: The client pod.
            target: The destination.
            own_port: The client's port; None if the pod's proxy opens a connection of its own.
            seconds: How long its reports may take.
        """
        now = time.monotonic()
        self._expected = [each for each in self._expected if each.until > now]
        self._expected.append(
            _Expected(
                sources=frozenset(source.addresses),
                own_port=own_port,
                addresses=frozenset({target.address, *(end.address for end in target.endpoints)}),
                ports=frozenset(
                    {target.port, TUNNEL_PORT, *(end.port for end in target.endpoints)}
                ),
                until=now + seconds,
                sides=set(),
            )
        )

    def marked(self, connection: Connection) -> tuple[Connection, ...]:
        """The connection, marked as traced if it was announced; only each end's first report is.

        If a report counts several connections, one of them is the trace; the others become a
        second report.
        """
        now = time.monotonic()
        for each in self._expected:
            if each.until > now and each.is_of(connection):
                each.sides.add(connection.side)
                traced = msgspec.structs.replace(connection, traced=True, count=1)
                if connection.count == 1:
                    return (traced,)
                others = msgspec.structs.replace(connection, count=connection.count - 1)
                return traced, others
        return (connection,)


class _Expected(NamedTuple):
    """A connection made for a trace, and the proxies that have reported it."""

    sources: frozenset[str]
    own_port: int | None
    addresses: frozenset[str]
    ports: frozenset[int]
    until: float
    sides: set[Side]

    def is_of(self, connection: Connection) -> bool:
        """Whether ``connection`` reports it."""
        source, destination = connection.source, connection.destination
        return (
            connection.side not in self.sides
            and connection.reason is not Reason.TOO_MANY_UNPROVED  # it is retried
            and source.address in self.sources
            and (self.own_port in {None, source.port} or not source.port)
            and destination.address in self.addresses
            and destination.port in self.ports
        )


class Ledger:
    """The connections of a node's pods.

    Args:
        path: The journal's directory.
        complete: Adds to a report what can only be found out now.
        count: Called with each connection that counts.

    Attributes:
        connections: The newest ones.
        journal: Keeps them across restarts.
    """

    def __init__(
        self,
        path: Path,
        *,
        complete: Callable[[ConnectionReport], Awaitable[ConnectionReport]],
        count: Callable[[Connection], None] | None = None,
    ) -> None:
        self.connections = Connections()
        self.journal = Journal(path, now=datetime.now(UTC))
        self._complete = complete
        self._count = count
        self._observer: Observer | None = None
        self._tell: Callable[[Connection], None] = self.note

    def follow(self, world: World) -> None:
        """Use ``world`` for connections from now on."""
        if self._observer is None:
            self._observer = Observer(world)
        else:
            self._observer.follow(world)

    def open(self) -> None:
        """Open the journal and restore its connections."""
        self._tell = self.note
        self.journal.open()
        self.connections.replace(self.journal.restored)

    def hand_over(self, tell: Callable[[Connection], None]) -> None:
        """Leave the journal to another agent; connections go to ``tell`` from now on."""
        self._tell = tell
        self.journal.close()

    def note(self, connection: Connection) -> None:
        """Record a connection, and count it unless it was made for a trace."""
        self.connections.add(connection)
        if connection.traced:
            return
        self.journal.add(connection)
        if self._count is not None:
            self._count(connection)

    async def read(self, reports: AsyncIterator[ConnectionReport]) -> None:
        """Record reports until they end."""
        async for report in reports:
            if self._observer is None:
                continue
            connection = self._observer.named(await self._complete(report))
            if connection is not None:
                for each in self.connections.marked(connection):
                    self._tell(each)
