"""Asks whether the pods of all other nodes go by the policies that this node goes by.

Only while a pod here waits for that, which it does for two seconds at most (`Changeover`): after a
policy has turned DISABLE into STRICT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from troth.cluster.contract import REPORT_LABEL
from troth.cluster.installation import read_report
from troth.errors import TrothError
from troth.kube import wire
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import msgspec

    from troth.kube.client import ApiClient


_log = structlog.get_logger(__name__)

_MANY_NODES = 100
"""From so many on, time alone decides: each node that waits would read a report of every other."""


def _read(raw: msgspec.Raw) -> tuple[str, str] | None:
    told = read_report(decode(raw, wire.Object).metadata)
    return (told[0], told[1].clients) if told and told[1] else None


_REPORTS = Resource(
    plural="leases",
    group="coordination.k8s.io",
    read=reader("Lease", _read),
    label_selector=f"{REPORT_LABEL}=node",
)


class Hearing:
    """Reads other nodes' reports.

    Args:
        client: Of the API server. Needs the right to list Leases in ``namespace``.
        namespace: The controller's.
    """

    def __init__(self, client: ApiClient, *, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def all_follow(self, policies: str, nodes: Collection[str]) -> bool:
        """Whether the pods of some nodes go by the policies of that digest."""
        if len(nodes) > _MANY_NODES:
            return False
        try:
            told = await self._told()
        except TrothError as error:
            _log.info("other nodes' reports can't be read", reason=str(error))
            return False
        return all(told.get(node) == policies for node in nodes)

    async def _told(self) -> Mapping[str, str]:
        """By node, the digest of the policies that its pods go by."""
        listed = await self._client.list(_REPORTS.within(self._namespace))
        return dict(item.value for item in listed.items if item.value is not None)
