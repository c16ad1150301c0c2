"""What becomes of Envoy's reports: connections that are remembered, written down and counted."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.agent.observe import Observer
from troth.envoy.ports import TUNNEL_PORT
from troth.traffic.connection import Connection
from troth.traffic.history import History
from troth.traffic.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from troth.agent.listeners import Listeners
    from troth.agent.metrics import NodeMetrics
    from troth.agent.strangers import Strangers
    from troth.agent.unserved import Unserved
    from troth.envoy.overflow_watch import OverflowWatch
    from troth.envoy.pipe import AccessLogPipe
    from troth.mesh.model import Pod
    from troth.mesh.target import Target
    from troth.mesh.world import World
    from troth.traffic.connection import Side


class Connections(History[Connection]):
    """The newest connections of a node's pods; knows which of them were made to trace them.

    A trace that counted as traffic would make a port that nobody uses ready for STRICT, and its
    impostors would be the refusals that `troth why` is asked about.
    """

    def __init__(self) -> None:
        super().__init__()
        self._expected: list[_Expected] = []

    def expect(self, source: Pod, target: Target, *, own_port: int | None, seconds: float) -> None:
        """A connection is about to be made for a trace.

        Args:
            source: The pod it is made from.
            target: Where to.
            own_port: Its port there; None where the pod's proxy makes another connection of it.
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

    def marked(self, connection: Connection) -> Connection:
        """The connection, as traced if it was expected; of each end's reports it is the first."""
        for each in self._expected:
            if each.is_of(connection) and each.until > time.monotonic():
                each.sides.add(connection.side)
                return msgspec.structs.replace(connection, traced=True)
        return connection


class _Expected(NamedTuple):
    """A connection that is made for a trace, and whose proxies have reported it."""

    sources: frozenset[str]
    own_port: int | None
    addresses: frozenset[str]
    ports: frozenset[int]
    until: float
    sides: set[Side]

    def is_of(self, connection: Connection) -> bool:
        """Whether it is what ``connection`` tells of."""
        source, destination = connection.source, connection.destination
        return (
            connection.side not in self.sides
            and source.address in self.sources
            and (self.own_port in {None, source.port} or not source.port)
            and destination.address in self.addresses
            and destination.port in self.ports
        )


class Ledger:
    """The connections of a node's pods.

    Args:
        path: The journal's file.
        metrics: Counts the connections.

    Attributes:
        connections: The newest ones.
        journal: The newest ones, kept across restarts.
    """

    def __init__(self, path: Path, *, metrics: NodeMetrics | None = None) -> None:
        self.connections = Connections()
        self.journal = Journal(path, now=datetime.now(UTC))
        self._metrics = metrics
        self._observer: Observer | None = None
        self._tell: Callable[[Connection], None] = self.note

    def follow(self, world: World) -> None:
        """Judge connections by ``world`` from now on."""
        if self._observer is None:
            self._observer = Observer(world)
        else:
            self._observer.follow(world)

    def open(self) -> None:
        """Keep the journal, and remember what it holds."""
        self._tell = self.note
        self.journal.open()
        self.connections.replace(self.journal.restored)

    def hand_over(self, tell: Callable[[Connection], None]) -> None:
        """Leave the journal to another; ``tell`` hears of connections from now on."""
        self._tell = tell
        self.journal.close()

    def note(self, connection: Connection) -> None:
        """Remember a connection, and count it unless it was made to trace it."""
        self.connections.add(connection)
        if connection.traced:
            return
        self.journal.add(connection)
        if self._metrics is not None:
            self._metrics.connection(connection)

    async def read(self, pipe: AccessLogPipe, strangers: Strangers, listeners: Listeners) -> None:
        """Take in what Envoy reports, until cancelled.

        Args:
            pipe: Where Envoy reports.
            strangers: Hears of each event first.
            listeners: Completes those that no app took.
        """
        async for event in pipe.events():
            strangers.hear(event)
            if self._observer is not None:
                connection = self._observer.connection(await listeners.complete(event))
                self._tell(self.connections.marked(connection))

    async def watch(self, watch: OverflowWatch) -> None:
        """Take in what Envoy refuses for being too much, until cancelled."""
        async for overflow in watch.overflows():
            if self._observer is None:
                continue
            connection = self._observer.overflow(overflow, datetime.now(UTC))
            if connection is not None:
                self._tell(connection)

    async def watch_strangers(self, strangers: Strangers) -> None:
        """Take in what is dropped of strangers, until cancelled."""
        async for dropped in strangers.dropped():
            if self._observer is None:
                continue
            connection = self._observer.dropped(dropped, datetime.now(UTC))
            if connection is not None:
                self._tell(connection)

    async def watch_unserved(self, unserved: Unserved, listeners: Listeners) -> None:
        """Take in what the pods' kernel refuses because nothing serves it, until cancelled.

        Args:
            unserved: Who hears of it.
            listeners: As of `read`.
        """
        async for refused in unserved.refused():
            if self._observer is None:
                continue
            event = self._observer.unserved(refused, datetime.now(UTC))
            if event is not None:
                connection = self._observer.connection(await listeners.complete(event))
                marked = self.connections.marked(connection)
                if marked.traced:
                    self._tell(marked)
                if others := refused.count - marked.traced:
                    self._tell(msgspec.structs.replace(connection, count=others))
