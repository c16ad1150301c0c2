"""The leader's work: it follows the objects it needs, and acts on every change."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from troth.cluster.contract import CONTROLLER, REVIEW_LIFETIME
from troth.cluster.events import Events
from troth.cluster.state import NAMESPACES
from troth.controller import objects
from troth.controller.authority import AuthorityKeeper
from troth.controller.election import ElectionTiming
from troth.controller.liveness import Liveness
from troth.controller.signer import Signer
from troth.controller.signing import SigningRules
from troth.controller.status import StatusWriter
from troth.kube.errors import NotFoundError, NotServedError
from troth.kube.follow import Followed
from troth.mesh.world import DEFAULT_HOME, DEFAULT_ROOT_NAMESPACE
from troth.program import keep_doing
from troth.sockets import ListenAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from troth.cluster.contract import NodeReport
    from troth.kube.client import ApiClient


class ControllerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The controller's settings.

    Attributes:
        rules: Who gets certificates.
        namespace: Where its own objects are.
        root_namespace: Where mesh-wide policies live.
        health_port: The port for the kubelet's probes; 0 for any.
        metrics: Where Prometheus may scrape it; None for nowhere.
        timing: The leader election's.
    """

    rules: SigningRules
    namespace: str = DEFAULT_HOME
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    health_port: int = 8086
    metrics: ListenAddress | None = None
    timing: ElectionTiming = ElectionTiming()


_LOOK_AGAIN_SECONDS = 60.0
"""Seconds between checks of a rotation, as a phase may end by time alone."""

_LISTEN_SECONDS, _LISTEN_PAUSE_SECONDS = 1.0, 0.1
"""How seldom and how often to process reports: 1,000 nodes renew 200 a second."""

_STATUS_PAUSE_SECONDS = 1.0
"""Nodes report one by one; don't write a policy's status for each of them."""


class LeaderFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The leader's state in numbers.

    Attributes:
        policies: How many PeerAuthentications are stored.
        refused_policies: How many of them can't be used.
        enforced_policies: How many are in force on every node.
        nodes: How many nodes report.
        troubled_nodes: How many of these report a problem, can't be parsed, or are silent.
    """

    policies: int
    refused_policies: int
    enforced_policies: int
    nodes: int
    troubled_nodes: int


class Work:
    """The work of one term as leader.

    Args:
        client: Of the API server.
        settings: The controller's.
        on_answer: As of `Signer`.
    """

    def __init__(
        self,
        client: ApiClient,
        settings: ControllerSettings,
        *,
        on_answer: Callable[[str, str], None],
    ) -> None:
        self._client = client
        events = Events(client, CONTROLLER)
        self._authority = AuthorityKeeper(
            client,
            trust_domain=settings.rules.trust_domain,
            namespace=settings.namespace,
            events=events,
        )
        self._signer = Signer(
            client,
            settings.rules,
            authority=lambda: self._authority.signing,
            events=events,
            on_answer=on_answer,
        )
        self._status = StatusWriter(client, root_namespace=settings.root_namespace, events=events)
        self._authority_woken = asyncio.Event()
        self._status_woken = asyncio.Event()
        self._reports_woken = asyncio.Event()
        self._liveness = Liveness()
        self._silent: frozenset[str] = frozenset()
        self._told: Mapping[str, NodeReport | None] = {}
        self._has_listened = False

        def followed(resource: Any, *reactions: Callable[[], None]) -> Followed[Any]:
            def react() -> None:
                for reaction in reactions:
                    reaction()

            return Followed(client, resource, on_change=react)

        wake_authority, wake_status = self._authority_woken.set, self._status_woken.set
        self._requests = followed(objects.REQUESTS, self._show_requests)
        self._secret = followed(objects.secret_versions(settings.namespace), wake_authority)
        self._namespaces = followed(NAMESPACES, wake_authority)
        self._bundles = followed(objects.TRUST_BUNDLES, wake_authority)
        self._reports = followed(objects.reports(settings.namespace), self._reports_woken.set)
        self._policies = followed(objects.policies(), self._note_policies, wake_status)

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What it is waiting for, in words."""
        blockers = [
            str(each.error or f"the first list of {each.resource}")
            for each in self._all
            if each.error or not each.is_synced
        ]
        if self._authority.trouble:
            blockers.append(self._authority.trouble)
        elif self._authority.signing is None:
            blockers.append("the certificate authority")
        return tuple(blockers)

    @property
    def rotation(self) -> tuple[str, ...]:
        """What the rotation of the root is waiting for."""
        return self._authority.awaited

    def figures(self) -> LeaderFigures:
        """The state in numbers."""
        policies, reports = self._policies.objects.values(), self._told
        return LeaderFigures(
            policies=len(policies),
            refused_policies=sum(each.stored.is_refused for each in policies),
            enforced_policies=sum(each.is_enforced for each in policies),
            nodes=len(reports),
            troubled_nodes=sum(
                report is None or bool(report.trouble) or node in self._silent
                for node, report in reports.items()
            ),
        )

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for each in self._all:
                    tasks.create_task(each.run())
                tasks.create_task(
                    keep_doing(self._listen, self._reports_woken, at_least_every=_LISTEN_SECONDS)
                )
                tasks.create_task(
                    keep_doing(
                        self._keep_authority,
                        self._authority_woken,
                        at_least_every=_LOOK_AGAIN_SECONDS,
                    )
                )
                tasks.create_task(
                    keep_doing(
                        self._keep_status, self._status_woken, at_least_every=_LOOK_AGAIN_SECONDS
                    )
                )
                tasks.create_task(
                    keep_doing(self._sweep, asyncio.Event(), at_least_every=_LOOK_AGAIN_SECONDS)
                )
        finally:
            await self._signer.close()

    @property
    def _all(self) -> tuple[Followed[Any], ...]:
        return (
            self._requests,
            self._secret,
            self._namespaces,
            self._bundles,
            self._reports,
            self._policies,
        )

    async def _listen(self) -> None:
        """Trigger the necessary work when a report changes, or isn't renewed."""
        if not self._reports.is_synced:
            return
        nodes = self._reports.objects.values()
        told = {each.node: each.report for each in nodes}
        silent = self._liveness.silent(
            {each.node: each.lease for each in nodes},
            at=asyncio.get_running_loop().time(),
            now=datetime.now(UTC),
            up_to_date=self._reports.error is None,
        )
        if told != self._told or silent != self._silent or not self._has_listened:
            self._told, self._silent, self._has_listened = told, silent, True
            self._authority_woken.set()
            self._status_woken.set()
        await asyncio.sleep(_LISTEN_PAUSE_SECONDS)

    async def _keep_authority(self) -> None:
        needed = (self._secret, self._namespaces, self._bundles)
        if not (self._has_listened and all(each.is_synced for each in needed)):
            return
        await self._authority.refresh()
        while await self._authority.advance(self._told):
            await self._authority.refresh()
        self._show_requests()
        await self._authority.distribute(
            [
                namespace.name
                for namespace in self._namespaces.objects.values()
                if namespace.in_mesh
            ],
            {key.partition("/")[0]: found for key, found in self._bundles.objects.items()},
        )

    async def _keep_status(self) -> None:
        if not (self._policies.is_synced and self._has_listened):
            return
        policies = tuple(self._policies.objects.values())
        await self._status.write(policies, self._told, self._silent)
        await asyncio.sleep(_STATUS_PAUSE_SECONDS)

    async def _sweep(self) -> None:
        await sweep_reviews(self._client, now=datetime.now(UTC))

    def _show_requests(self) -> None:
        self._signer.show(self._requests.objects.values())

    def _note_policies(self) -> None:
        self._status.note(self._policies.objects.values())


async def sweep_reviews(client: ApiClient, *, now: datetime) -> None:
    """Delete the reviews that have expired by ``now``.

    Raises:
        TrothError: The API server can't be reached, or refuses.
    """
    try:
        found = await client.list(objects.REVIEWS)
    except NotServedError:
        return
    for item in found.items:
        if item.value is None:
            continue
        metadata = item.value.metadata
        made = metadata.creation_timestamp
        if made is None or now - made < REVIEW_LIFETIME:
            continue
        with contextlib.suppress(NotFoundError):
            await client.delete(objects.REVIEW, metadata.name, metadata.namespace)
