"""Node agents' observations, with what only they know: names, causes, remedies.

Those of several nodes can be combined and judged without the nodes' own worlds. Both ends' proxies
may report one connection: `told_once` keeps the more informative report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from troth.mesh.model import Endpoint
from troth.mesh.world import World
from troth.traffic.connection import Outcome, Reason, Side
from troth.traffic.tally import Total

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.traffic.connection import Connection


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """Connections of one kind.

    Attributes:
        total: The kind, and how many.
        destination: The server's workload, or the service that was dialled, or an IP.
        servers: The possible servers.
        client_captured: Whether all pods of the client's workload are captured.
        cause: Why they were refused or failed, in one sentence; empty if they were accepted.
        remedy: What to do, in one sentence.
        manifests: YAML to apply against it, if known.
    """

    total: Total
    destination: str
    servers: tuple[Endpoint, ...]
    client_captured: bool
    cause: str = ""
    remedy: str = ""
    manifests: str = ""

    @property
    def ends(self) -> frozenset[str]:
        """The names of the client and the server."""
        return frozenset({self.total.source, self.total.destination, self.destination})


class Observations(msgspec.Struct, frozen=True, kw_only=True):
    """The connections that one or several node agents have seen, and their world.

    Attributes:
        complete_since: From this moment on nothing is missing.
        noted: The connections; of one agent newest first.
        left_out: How many were left out because there were too many.
        world: The current world, with the agents' pods.
        not_captured: Why pods that should be captured are not, by UID.
        refused_by_envoy: What Envoy rejects of their configuration.
    """

    complete_since: datetime
    noted: tuple[Noted, ...]
    left_out: int = 0
    world: World
    not_captured: Mapping[str, str] = {}
    refused_by_envoy: tuple[str, ...] = ()


_Ends = tuple[str, str, int]
"""Client, the server's IP, and its port."""

_TOGETHER = timedelta(seconds=5)

_ECHOES = frozenset(
    {
        Reason.REFUSED_BY_PEER,
        Reason.NO_HANDSHAKE,
        Reason.HANDSHAKE_FAILED,
        Reason.UNREACHABLE,
        Reason.OTHER,
    }
)
"""An end's reasons when the other end has ended the connection."""


def told_once(noted: Iterable[Noted]) -> tuple[Noted, ...]:
    """Leave out reports that only echo the other end's report of the same connections.

    Both ends share no connection ID. So reports belong together if client, server and port are the
    same and their newest connections began within five seconds.
    """
    noted = tuple(noted)
    failed = [each for each in noted if each.total.newest.outcome.is_trouble]
    by_server: dict[_Ends, list[Noted]] = defaultdict(list)
    for each in failed:
        total = each.total
        if total.newest.side is Side.SERVER:
            by_server[total.source, total.newest.destination.address, total.port].append(each)
    echoes: set[int] = set()
    for one in failed:
        if one.total.newest.side is not Side.CLIENT:
            continue
        for server in one.servers:
            for other in by_server.get((one.total.source, server.address, server.port), ()):
                echo = one if one.total.newest.reason in _ECHOES else other
                together = abs(one.total.last - other.total.last) <= _TOGETHER
                if together and echo.total.newest.reason in _ECHOES:
                    echoes.add(id(echo))
    return tuple(each for each in noted if id(each) not in echoes)


class Plaintext(msgspec.Struct, frozen=True, kw_only=True):
    """Plaintext connections from one client to one port of a workload.

    Attributes:
        source: ``NAMESPACE/NAME`` of the client's workload, or its IP if unknown.
        destination: ``NAMESPACE/NAME`` of the workload.
        count: How many connections were accepted.
        last: When the newest of them ended.
    """

    source: str
    destination: str
    port: int
    count: int
    last: datetime


def seen_in_plaintext(connections: Iterable[Connection]) -> tuple[Plaintext, ...]:
    """Sum up the plaintext that workloads of the mesh accepted, by client and port."""
    return _summed((each.source.name, each, each.count) for each in connections)


def noted_in_plaintext(noted: Iterable[Noted]) -> tuple[Plaintext, ...]:
    """The same for the observations of a cluster's nodes."""
    return _summed((each.total.source, each.total.newest, each.total.count) for each in noted)


def _summed(seen: Iterable[tuple[str, Connection, int]]) -> tuple[Plaintext, ...]:
    sums: dict[tuple[str, str, int], Plaintext] = {}
    for source, newest, count in seen:
        # A client's own report would count the connection a second time.
        if newest.outcome is not Outcome.PLAINTEXT or newest.side is not Side.SERVER:
            continue
        if newest.destination.workload is None:
            continue
        key = (newest.destination.workload, source, newest.destination.port)
        before = sums.get(key)
        sums[key] = Plaintext(
            source=source,
            destination=newest.destination.workload,
            port=newest.destination.port,
            count=before.count + count if before else count,
            last=max(before.last, newest.time) if before else newest.time,
        )
    return tuple(each for _, each in sorted(sums.items()))
