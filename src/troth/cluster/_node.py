"""One node of a cluster: the API's state in, captured pods, their marks and a report out.

One loop brings everything up to date with the newest state of the cluster. Whatever happens (the
state changed, a namespace was found, Envoy took a configuration) only wakes that loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
from lightkube.resources.core_v1 import Node

from troth._contract import policy_digest
from troth._health import health_server
from troth.cluster._local_pods import LocalPods, local_pods
from troth.cluster._marker import Marker
from troth.cluster._pins import Pins
from troth.cluster._ranges import ServiceRanges
from troth.errors import EnvironmentLackError, TrothError
from troth.node import NodeAgent, NodePaths, is_captured
from troth.node._csr_signer import ClusterSigner
from troth.node._report import NodeReporter, node_report
from troth.sources import ClusterState, follow
from troth.sources.kubernetes import ApiServer, api_client, api_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Mapping

    from lightkube import AsyncClient, SingleConfig

    from troth.cluster._settings import NodeSettings
    from troth.mesh import Pod, World

_log = structlog.get_logger(__name__)

_RETRY_SECONDS = 5.0

_LOOPBACK = "127.0.0.1"
"""On the node's own network only its own processes, the kubelet for one, are to ask."""

_HOST = Path("/proc/1/ns/net")
"""The node's own network namespace, given that its PIDs are in view."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``/readyz``.

    Attributes:
        captured: How many pods are captured.
        refused: Why pods that should be captured are not; that makes the node no less ready.
        waiting_for: What is in the way, in words; ready when there is nothing.
    """

    captured: int = 0
    refused: tuple[str, ...] = ()
    waiting_for: tuple[str, ...] = ()


class ClusterNode:
    """The node agent of one node of a cluster.

    Args:
        config: How to reach the API server, and as whom.
        settings: The node's.
    """

    def __init__(self, config: SingleConfig, settings: NodeSettings) -> None:
        self.settings = settings
        self.world: World | None = None
        self.agent: NodeAgent | None = None
        self._config = config
        self._state: ClusterState | None = None
        self._local = LocalPods(wanted=frozenset(), others=frozenset())
        self._pins = Pins(settings.run_dir / "netns", on_change=self._wake)
        self._signer = ClusterSigner(
            config,
            trust_domain=settings.trust_domain,
            namespace=settings.namespace,
            on_bundle=self._adopt_roots,
        )
        self._troubles: Mapping[str, TrothError] = {}
        self._marker: Marker | None = None
        self._enforced: ClusterState | None = None
        self._woken = asyncio.Event()

    def readiness(self) -> Readiness:
        """Whether it does what it is there for, and if not, why."""
        return Readiness(
            captured=len(self.agent.captured) if self.agent is not None else 0,
            refused=self._refused(),
            waiting_for=tuple(self._blockers()),
        )

    def _blockers(self) -> list[str]:
        blockers = [str(error) for error in self._troubles.values()]
        if self._signer.error is not None:
            blockers.append(str(self._signer.error))
        if self._state is None:
            blockers.append("the state of the cluster is not known yet")
        if self.agent is None:
            blockers.append("the roots to believe in are not known yet")
        elif not self.agent.ads_status().connected:
            blockers.append("Envoy is not connected")
        elif not self.agent.is_settled:
            blockers.append("Envoy has not taken the newest configuration yet")
        if self._marker is not None and self._marker.trouble:
            blockers.append(self._marker.trouble)
        return blockers

    async def run(self) -> None:
        """Run until cancelled. Pods stay captured: without Envoy their connections are refused.

        Raises:
            EnvironmentLackError: The machine or the configuration can't be used.
        """
        client = api_client(self._config, field_manager="troth-node")
        server = ApiServer(self._config)
        ranges = ServiceRanges(server, on_change=self._wake)
        self._pins.start()
        self._marker = Marker(client)
        try:
            async with (
                self._answering_health(),
                asyncio.TaskGroup() as tasks,
            ):
                tasks.create_task(self._signer.run())
                tasks.create_task(self._follow())
                tasks.create_task(self._pins.run())
                tasks.create_task(self._marker.run())
                tasks.create_task(ranges.run())
                await self._signer.ready()
                self.agent = self._make_agent()
                reporter = await self._make_reporter(client)
                await self._take_over(self.agent)
                tasks.create_task(self.agent.run())
                tasks.create_task(reporter.run())
                await self._reconcile_forever(self.agent, self._marker, reporter, ranges)
        finally:
            self._pins.close()
            await server.aclose()
            await client.close()

    @contextlib.asynccontextmanager
    async def _answering_health(self) -> AsyncIterator[None]:
        port = self.settings.health_port
        try:
            async with health_server(self.readiness, port=port, host=_LOOPBACK):
                yield
        except OSError as error:
            raise EnvironmentLackError(
                f"port {port} for health checks cannot be used: {error.strerror}",
                "choose another with --health-port",
            ) from error

    async def _follow(self) -> None:
        states = follow(
            self._config, node_name=self.settings.node_name, on_trouble=self._note_troubles
        )
        async with contextlib.aclosing(states):
            async for state in states:
                self._state = state
                self.world = state.world(
                    self.settings.trust_domain, root_namespace=self.settings.root_namespace
                )
                self._local = local_pods(self.world, self.settings.node_name)
                self._wake()

    async def _reconcile_forever(
        self, agent: NodeAgent, marker: Marker, reporter: NodeReporter, ranges: ServiceRanges
    ) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._state is None or self.world is None:
                continue
            self._pins.want(self._local.wanted | agent.using, self.world.pods)
            held = self._pins.held
            agent.set_service_ranges(ranges.networks)
            agent.update(self.world, {uid: held[uid] for uid in self._local.wanted & held.keys()})
            marker.want(self._marks(self.world, agent.captured))
            if agent.is_settled:
                self._enforced = self._state
            self._report(agent, reporter)

    def _marks(self, world: World, captured: Collection[str]) -> Iterator[tuple[Pod, bool]]:
        """The pods whose marks are known, and whether they are to have one.

        What a pod of the mesh is marked as is left alone until it is captured: an earlier agent may
        have captured it.
        """
        for uid in self._local.wanted & frozenset(captured):
            yield world.pods[uid], True
        for uid in self._local.others:
            yield world.pods[uid], uid in captured

    def _report(self, agent: NodeAgent, reporter: NodeReporter) -> None:
        credentials = agent.credentials
        if self._enforced is None or self.world is None or credentials is None:
            return
        pods = self.world.pods
        reporter.tell(
            node_report(
                policies=policy_digest(self._enforced.stored_policies),
                bundle=credentials.bundle,
                svids=credentials.svids,
                now=datetime.now(UTC),
                joining={pods[uid].namespace for uid in agent.joining & pods.keys()},
                captured=len(agent.redirected),
                trouble="; ".join((*map(str, self._troubles.values()), *self._refused())),
            )
        )

    def _refused(self) -> tuple[str, ...]:
        if self.agent is None or self.world is None:
            return ()
        pods = self.world.pods
        reasons = {**self._pins.problems, **self.agent.refused}
        return tuple(
            f"pod {pods.get(uid, uid)} is not captured: {reason}"
            for uid, reason in sorted(reasons.items())
        )

    async def _take_over(self, agent: NodeAgent) -> None:
        """Find the pods outside of the mesh that an earlier agent captured, to release them."""
        while self.world is None:
            await self._woken.wait()
            self._woken.clear()
        others = {uid: self.world.pods[uid] for uid in self._local.others}
        for uid, netns in (await self._pins.find(others.values())).items():
            try:
                if await is_captured(netns):
                    agent.adopt(uid, self._pins.hold(others[uid], netns))
            except TrothError as error:
                _log.info("a pod can't be looked into", pod=uid, reason=str(error))
        self._wake()

    def _make_agent(self) -> NodeAgent:
        own = self.settings.run_dir / "agent"
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        return NodeAgent(
            node_name=self.settings.node_name,
            paths=NodePaths(
                ads=own / "ads",
                admin=own / "admin",
                bootstrap=own / "bootstrap.json",
                access_log=own / "access-log",
                journal=own / "events",
            ),
            signer=self._signer,
            on_change=self._wake,
            host=_HOST,
            announcement_seconds=self.settings.announcement_seconds,
        )

    async def _make_reporter(self, client: AsyncClient) -> NodeReporter:
        name = self.settings.node_name
        while True:
            try:
                with api_errors(f"get Node {name}"):
                    node = await client.get(Node, name)
            except TrothError as error:
                _log.warning("this node is not known", reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            uid = (node.metadata.uid if node.metadata else None) or ""
            return NodeReporter(client, node=name, node_uid=uid, namespace=self.settings.namespace)

    def _adopt_roots(self) -> None:
        if self.agent is not None:
            self.agent.follow_roots(self._signer.signing_root)
        self._wake()

    def _note_troubles(self, troubles: Mapping[str, TrothError]) -> None:
        self._troubles = troubles
        self._wake()

    def _wake(self) -> None:
        self._woken.set()
