"""Says of a connection that no app took what the app listens on instead."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.agent.sockets import listening_sockets
from troth.errors import TrothError
from troth.traffic.connection import Reason, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from troth.agent.sockets import ListeningSocket
    from troth.traffic.connection import ConnectionReport

_FRESH_SECONDS = 1.0
"""How long a look at a pod's sockets counts, so that a scan of its ports costs few of them."""


class _Look(NamedTuple):
    at: float
    sockets: frozenset[ListeningSocket]


class Listeners:
    """Looks at the listening sockets of a node's pods when a report asks for it.

    Args:
        netns: The network namespaces of the pods, by UID, as they are now.
    """

    def __init__(self, netns: Callable[[], Mapping[str, Path]]) -> None:
        self._netns = netns
        self._looks: dict[str, _Look] = {}

    async def complete(self, report: ConnectionReport) -> ConnectionReport:
        """The report; of a connection that no app took, with what the app listens on as detail.

        Envoy's own word for it is always the same, and is left out.
        """
        connection = report.connection
        if (connection.side, connection.reason) != (Side.SERVER, Reason.APP_UNREACHABLE):
            return report
        address, port = connection.destination.address, connection.destination.port
        sockets = await self._look(report.pod)
        detail = listening_instead(address, port, sockets) if sockets is not None else ""
        completed = msgspec.structs.replace(connection, detail=detail)
        return msgspec.structs.replace(report, connection=completed)

    async def _look(self, uid: str) -> frozenset[ListeningSocket] | None:
        now = asyncio.get_running_loop().time()
        self._looks = {
            each: look for each, look in self._looks.items() if now < look.at + _FRESH_SECONDS
        }
        netns = self._netns().get(uid)
        if netns is None:
            return None
        if uid not in self._looks:
            try:
                sockets = await asyncio.to_thread(listening_sockets, netns)
            except TrothError:  # the pod has ended
                return None
            self._looks[uid] = _Look(now, sockets)
        return self._looks[uid].sockets


def listening_instead(address: str, port: int, sockets: Collection[ListeningSocket]) -> str:
    """What listens on ``port``, where a connection to ``address`` found nobody.

    Returns:
        Such as ``it listens on 0.0.0.0:7000 alone, so not on IPv6``; empty if somebody would take
        the connection now.
    """
    there = sorted({each for each in sockets if each.port == port})
    if not there:
        return f"nothing listens on port {port}"
    if any(each.takes(address) for each in there):
        return ""
    places = " and ".join(str(each) for each in there)
    wanted = "IPv6" if ":" in address else "IPv4"
    loopback = all(ip_address(each.address).is_loopback for each in there)
    missing = "the pod's address" if loopback else wanted
    return f"it listens on {places} alone, so not on {missing}"
