"""Tells the controller what this node enforces, by a Lease that the agent renews while it lives."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta, OwnerReference
from lightkube.resources.coordination_v1 import Lease

from troth.cluster.contract import (
    REPORT_ANNOTATION,
    REPORT_LABEL,
    REPORT_SECONDS,
    NodeReport,
    report_lease,
)
from troth.cluster.installation import read_report
from troth.errors import TrothError
from troth.identity.profile import root_fingerprint
from troth.kube import wire
from troth.kube.kinds import LEASE, micro_time
from troth.kube.resource import Resource, reader
from troth.kube.wire import decode
from troth.program import woken
from troth.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from troth.cluster.contract import PodTrouble
    from troth.identity.bundle import TrustBundle
    from troth.kube.client import ApiClient

_log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 0.5
"""Changes that come close together are told as one."""

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 5.0
_WRITE_SECONDS = 4.0


def node_report(
    *,
    policies: str,
    bundle: TrustBundle,
    issuers: frozenset[str],
    joining: Iterable[str] = (),
    clients: str = "",
    captured: int | None = None,
    plugin: bool | None = None,
    uncaptured: Mapping[str, PodTrouble] = {},
    unmarked: Mapping[str, PodTrouble] = {},
    leniency: str = "",
    trouble: str = "",
) -> NodeReport:
    """Sum up what Envoy has acknowledged.

    Args:
        policies: `policy_digest` of what is enforced.
        bundle: The roots that Envoy believes in.
        issuers: Fingerprints of the roots of the certificates that Envoy uses.
        joining: Namespaces with pods that take plaintext because they have just joined.
        clients: `policy_digest` of what the node's pods go by as clients.
        captured: How many pods' new connections are led to Envoy.
        plugin: Whether the CNI plugin is installed, if that is known.
        uncaptured: As of `NodeReport`.
        unmarked: As of `NodeReport`.
        leniency: Why processes of the node pass for its kubelet.
        trouble: Why it isn't further.
    """
    return NodeReport(
        policies=policies,
        roots=frozenset(map(root_fingerprint, bundle.certificates)),
        issuers=issuers,
        joining=frozenset(joining),
        clients=clients,
        captured=captured,
        plugin=plugin,
        uncaptured=uncaptured,
        unmarked=unmarked,
        leniency=leniency,
        trouble=trouble,
    )


def _jittered(seconds: float) -> float:
    """Not in step with other nodes."""
    return seconds * random.uniform(0.8, 1)  # noqa: S311


class NodeReporter:
    """Keeps a node's report up to date. Needs the right to create and patch its Lease.

    Args:
        client: Of the API server.
        node: The node's name.
        node_uid: Its ``metadata.uid``: the report is removed with the Node.
        namespace: The controller's.

    Attributes:
        trouble: Why the report can't be written or renewed; empty when all is well.
    """

    def __init__(self, client: ApiClient, *, node: str, node_uid: str, namespace: str) -> None:
        self.trouble = ""
        self._client = client
        self._node = node
        self._node_uid = node_uid
        self._namespace = namespace
        self._report: NodeReport | None = None
        self._changed = asyncio.Event()

    def tell(self, report: NodeReport) -> None:
        """Have ``report`` written soon."""
        if report != self._report:
            self._report = report
            self._changed.set()

    def pause(self) -> None:
        """Write and renew nothing until the next report is told."""
        self._report = None
        self.trouble = ""

    async def run(self) -> None:
        """Write what is told, and renew it, until cancelled; then say that nobody renews it."""
        backoff = Backoff(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS, jitter=_jittered)
        try:
            while True:
                renewal = _jittered(REPORT_SECONDS / 3) if self._report is not None else None
                await woken(self._changed, renewal)
                self._changed.clear()
                trouble = await self._write(self._report, self._node, REPORT_SECONDS)
                if trouble:
                    self._changed.set()
                if trouble and trouble != self.trouble:
                    _log.warning("the node's report was not written", reason=trouble)
                self.trouble = trouble if self._report is not None else ""
                if trouble:
                    await asyncio.sleep(backoff.next())
                else:
                    backoff.reset()
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            # What can't be given back runs out by itself.
            await self._write(self._report, "", 1)

    async def _write(self, report: NodeReport | None, holder: str, seconds: int) -> str:
        """Write a report, if there is one; why it was not written, or nothing."""
        if report is None:
            return ""
        name = report_lease(self._node)
        lease = Lease(
            metadata=ObjectMeta(
                name=name,
                namespace=self._namespace,
                labels={REPORT_LABEL: "node"},
                annotations={
                    REPORT_ANNOTATION: msgspec.json.encode(report, order="sorted").decode()
                },
                ownerReferences=[
                    OwnerReference(
                        apiVersion="v1", kind="Node", name=self._node, uid=self._node_uid
                    )
                ],
            ),
            spec=LeaseSpec(
                holderIdentity=holder,
                leaseDurationSeconds=seconds,
                renewTime=micro_time(datetime.now(UTC)),
            ),
        )
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await self._client.apply(LEASE, name, lease, self._namespace)
        except (TrothError, TimeoutError) as error:
            return str(error) or "the API server did not answer in time"
        return ""


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
