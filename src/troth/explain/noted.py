"""Connections with all that only those know who have seen them: in whose words they are reported.

What one node has noted can be put together with what others have, and be judged without knowing
their worlds.

Both ends' proxies may report one connection: `told_once` keeps the one that knows more.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from troth.explain.remedies import Explainer, Texts
from troth.mesh.model import Endpoint
from troth.traffic.connection import Outcome, Reason, Side
from troth.traffic.tally import Total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from troth.explain.names import NameIndex
    from troth.mesh.world import World

_NOTHING = Texts("", "")
TROUBLE = frozenset({Outcome.REFUSED, Outcome.FAILED})


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """Connections of one kind.

    Attributes:
        total: How many of what.
        destination: The server's workload, or the service that was dialled, or an IP.
        servers: Where the client may have been led to.
        client_captured: Whether all pods of the client's workload are captured.
        cause: Why they were refused or failed, in one sentence; empty where they were not.
        remedy: What to do, in one sentence.
        manifests: What to apply for it (YAML), where that is known.
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
        """What the client and the server are called."""
        return frozenset({self.total.source, self.total.destination, self.destination})


def note(
    totals: Iterable[Total],
    world: World,
    *,
    behind: Callable[[str], Iterable[str]] | None = None,
) -> Iterator[Noted]:
    """Note what was seen by ``world``, which names it and decides what there is to do.

    One after the other: explaining takes its time, and the first may be enough. ``behind`` is as of
    `Explainer`.
    """
    explainer = Explainer(world, behind=behind)
    uncaptured = {pod.workload for pod in world.pods.values() if not pod.captured}
    captured = {pod.workload for pod in world.pods.values()} - uncaptured
    for total in totals:
        in_trouble = total.newest.outcome in TROUBLE
        texts = explainer.explain(total) if in_trouble else _NOTHING
        yield Noted(
            total=total,
            destination=explainer.names.destination(total),
            servers=tuple(_servers(total, explainer.names)),
            client_captured=total.source in captured,
            cause=texts.cause,
            remedy=texts.remedy,
            manifests=texts.manifests,
        )


def _servers(total: Total, names: NameIndex) -> Iterator[Endpoint]:
    service = names.service(total)
    if service is None:
        yield Endpoint(total.newest.destination.address, total.port)
        return
    for port in service.ports:
        if port.number == total.port:
            yield from port.endpoints


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
"""What an end says when the other end has ended the connection."""


def told_once(noted: Iterable[Noted]) -> tuple[Noted, ...]:
    """Leave out what only echoes the other end's report of the same connections.

    Connections carry no number that both ends know. So reports belong together when client,
    server and port are the same and their newest connections began within five seconds.
    """
    noted = tuple(noted)
    failed = [each for each in noted if each.total.newest.outcome in TROUBLE]
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
