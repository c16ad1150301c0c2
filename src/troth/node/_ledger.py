"""What becomes of Envoy's reports: connections that are remembered, written down and counted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from troth.node._history import History
from troth.node._journal import Journal
from troth.node._observe import Observer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from troth.envoy import AccessLogPipe, OverflowWatch
    from troth.mesh import Connection, World
    from troth.node._listeners import Listeners
    from troth.node._metrics import NodeMetrics
    from troth.node._strangers import Strangers
    from troth.node._unserved import Unserved


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
        self.connections: History[Connection] = History()
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
        """Remember a connection."""
        self.connections.add(connection)
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
                self._tell(self._observer.connection(await listeners.complete(event)))

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
                self._tell(msgspec.structs.replace(connection, count=refused.count))
