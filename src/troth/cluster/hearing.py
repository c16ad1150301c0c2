"""Asks whether the pods of all other nodes go by the policies that this node goes by.

Only while a pod here waits for that, which it does for two seconds at most (`Changeover`): after a
policy has turned DISABLE into STRICT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog
from lightkube.resources.coordination_v1 import Lease

from troth._contract import REPORT_ANNOTATION, REPORT_LABEL, NodeReport, report_node
from troth.errors import TrothError
from troth.kube.typed import api_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from lightkube import AsyncClient

_log = structlog.get_logger(__name__)

_MANY_NODES = 100
"""From so many on, time alone decides: each node that waits would read a report of every other."""


class Hearing:
    """Reads other nodes' reports.

    Args:
        client: Of the API server. Needs the right to list Leases in ``namespace``.
        namespace: The controller's.
    """

    def __init__(self, client: AsyncClient, *, namespace: str) -> None:
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
        with api_errors(f"list Leases in {self._namespace}"):
            leases = [
                lease
                async for lease in self._client.list(
                    Lease, namespace=self._namespace, labels={REPORT_LABEL: "node"}
                )
            ]
        return dict(_read(leases))


def _read(leases: Collection[Lease]) -> Iterator[tuple[str, str]]:
    for lease in leases:
        metadata = lease.metadata
        node = report_node((metadata.name if metadata else None) or "")
        text = ((metadata.annotations if metadata else None) or {}).get(REPORT_ANNOTATION, "")
        if node is None:
            continue
        try:
            yield node, msgspec.json.decode(text, type=NodeReport).clients
        except msgspec.DecodeError:
            continue  # as one that tells nothing
