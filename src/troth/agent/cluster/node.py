"""One node of a cluster: the API's state in, captured pods, their marks and a report out.

One loop brings everything up to date with the newest state of the cluster. Whatever happens (the
state changed, a namespace was found, Envoy took a configuration) only wakes that loop.

While two agents are on a node (see `slots`), one is in charge: it captures, marks and reports. The
other only follows the cluster and keeps its Envoy up to date.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from troth.agent import netns
from troth.agent.agent import NodeAgent
from troth.agent.capture import tried_kernel
from troth.agent.certificates import IssuerCache
from troth.agent.cluster.announcements import Waiting
from troth.agent.cluster.cni import CniVerdict
from troth.agent.cluster.cri import RuntimeFinder
from troth.agent.cluster.handover import Charge, take_place
from troth.agent.cluster.leftovers import Leftovers
from troth.agent.cluster.local_pods import LocalPods, LocalPodsKeeper, foresee
from troth.agent.cluster.marker import Mark, Marker
from troth.agent.cluster.memory import MemoryKeeper
from troth.agent.cluster.plugin import CniPlugin
from troth.agent.cluster.ranges import ServiceRanges
from troth.agent.cluster.removal import Removal, clear_away
from troth.agent.cluster.report import Hearing, NodeReporter, node_report
from troth.agent.cluster.requester import CsrRequester
from troth.agent.cluster.settings import OnUncaptured
from troth.agent.cluster.taint import take_off
from troth.agent.cluster.uncaptured import UncapturedPods
from troth.agent.metrics import NodeMetrics
from troth.agent.pod_namespaces import Pins, find_by_cgroup
from troth.agent.proxy import NodePaths
from troth.cluster.contract import policy_digest
from troth.cluster.state import follow
from troth.errors import TrothError
from troth.http_server import health_pages, metrics_pages, serve_when_free, serving
from troth.kube import wire
from troth.kube.client import ApiClient
from troth.kube.resource import ObjectKind
from troth.mesh.model import NO_PORTS
from troth.reviews.answers import Knowledge
from troth.reviews.responder import Responder
from troth.sockets import ListenAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Mapping

    from lightkube import SingleConfig

    from troth.agent.cluster.handover import Place, Slot
    from troth.agent.cluster.settings import NodeSettings
    from troth.agent.proof import Restoration
    from troth.cluster.world import ClusterState
    from troth.identity.spiffe import SpiffeId
    from troth.mesh.model import Pod
    from troth.mesh.world import World

_log = structlog.get_logger(__name__)

_NODE = ObjectKind(kind="Node", plural="nodes", shape=wire.Headed)

_RETRY_SECONDS = 5.0

_FIRST_LOOK_SECONDS = 0.02
"""How soon other nodes' reports are looked at again; each further time after twice as long."""

_HOST = Path("/proc/1/ns/net")
"""The node's own network namespace, given that its PIDs are in view."""


class NodeReadiness(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``/readyz``.

    Attributes:
        captured: How many pods are captured.
        refused: Why pods that should be captured are not; that makes the node no less ready.
        notes: What is not as it should be, but in nobody's way.
        waiting_for: What is in the way, in words; ready when there is nothing.
    """

    captured: int = 0
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
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
        self._local_pods = LocalPodsKeeper(settings.node_name)
        self._local = LocalPods(wanted=frozenset(), others=frozenset())
        self._runtime = (
            RuntimeFinder(settings.cri_socket, otherwise=find_by_cgroup, on_change=self._wake)
            if settings.cri_socket is not None
            else None
        )
        self._signer = CsrRequester(
            config,
            trust_domain=settings.trust_domain,
            namespace=settings.namespace,
            on_bundle=self._adopt_roots,
        )
        self._responder = Responder(config, node_name=settings.node_name, known=self._knowledge)
        self._troubles: Mapping[str, TrothError] = {}
        self._marker: Marker | None = None
        self._reporter: NodeReporter | None = None
        self._enforced: ClusterState | None = None
        self._followed: ClusterState | None = None
        self._waits = asyncio.Event()
        self._digests: list[tuple[object, str]] = []
        self._pins: Pins | None = None
        self._charge: Charge | None = None
        self._leftovers: Leftovers | None = None
        self._uncaptured: UncapturedPods | None = None
        self._metrics = NodeMetrics() if settings.metrics is not None else None
        self._known = asyncio.Event()
        self._woken = asyncio.Event()
        self._memory = MemoryKeeper()
        self._issuers = IssuerCache()
        self._stored: World | None = None
        self._plugin: CniPlugin | None = None
        self._removal: Removal | None = None
        self._is_last = False
        self._can_capture = asyncio.Event()

    def readiness(self) -> NodeReadiness:
        """Whether it does what it is there for, and if not, why."""
        return NodeReadiness(
            captured=len(self.agent.captured) if self.agent is not None else 0,
            refused=self._refused(),
            notes=self._notes(),
            waiting_for=tuple(self._blockers()),
        )

    def _blockers(self) -> list[str]:
        blockers = [str(error) for error in self._troubles.values()]
        if self._signer.error is not None:
            blockers.append(str(self._signer.error))
        if self._pins is None:
            blockers.append("there are two other agents on the node, one of which has to end first")
        if self._state is None:
            blockers.append("the state of the cluster is not known yet")
        if self.agent is None:
            blockers.append("the roots to believe in are not known yet")
        elif not self.agent.envoy_is_connected:
            blockers.append("Envoy is not connected")
        elif not self.agent.is_settled:
            blockers.append("Envoy has not taken the newest configuration yet")
        elif self._charge is None or self._charge.is_awaited:
            blockers.append("the agent before this one has not handed over yet")
        if self._marker is not None and self._marker.trouble:
            blockers.append(self._marker.trouble)
        if self._reporter is not None and self._reporter.trouble:
            blockers.append(f"the node's report: {self._reporter.trouble}")
        return blockers

    async def run(self) -> None:
        """Run until cancelled. Pods stay captured: without Envoy their connections are refused.

        Raises:
            EnvironmentLackError: The machine or the configuration can't be used.
        """
        client = ApiClient(self._config, field_manager="troth-node")
        try:
            async with self._answering_health():
                # Before there is anything to hand over: an agent that can't capture takes no pods
                # from one that can.
                await asyncio.to_thread(tried_kernel)
                async with take_place(self.settings.run_dir) as place:
                    await self._run(client, place)
        finally:
            await client.aclose()

    async def _run(self, client: ApiClient, place: Place) -> None:
        self._pins = pins = Pins(
            place.own.directory / "netns",
            finder=self._runtime or find_by_cgroup,
            on_change=self._wake,
        )
        ranges = ServiceRanges(client, on_change=self._wake)
        pins.start()
        self._marker = marker = Marker(client)
        self._removal = removal = Removal(client, namespace=self.settings.namespace)
        self._uncaptured = uncaptured = UncapturedPods(
            client,
            self.settings.node_name,
            evicts=self.settings.uncaptured is OnUncaptured.EVICT,
        )
        if self.settings.cni is not None:
            self._plugin = CniPlugin(
                self.settings.cni,
                removal,
                run_dir=self.settings.run_dir,
                namespace=self.settings.namespace,
                on_change=self._look_again,
            )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._signer.run())
                tasks.create_task(self._follow())
                tasks.create_task(pins.run())
                tasks.create_task(marker.run())
                tasks.create_task(uncaptured.run())
                tasks.create_task(self._responder.run())
                tasks.create_task(ranges.run())
                tasks.create_task(removal.run())
                await self._signer.ready()
                self.agent = agent = self._make_agent(place.own)
                tasks.create_task(self._foresee(client, agent))
                self._reporter = reporter = await self._make_reporter(client)
                self._charge = charge = Charge(agent, place)
                tasks.create_task(agent.run())
                tasks.create_task(reporter.run())
                hearing = Hearing(client, namespace=self.settings.namespace)
                tasks.create_task(self._hear(agent, hearing))
                self._leftovers = leftovers = Leftovers(agent, pins)
                tasks.create_task(charge.run(functools.partial(self._adopt, leftovers)))
                tasks.create_task(leftovers.run())
                tasks.create_task(self._show_metrics(charge))
                if self._plugin is not None:
                    tasks.create_task(self._plugin.run(charge))
                if self.settings.startup_taint:
                    tasks.create_task(self._let_pods_in(client))
                await self._reconcile_forever(agent, pins, marker, reporter, ranges)
        finally:
            self._memory.close()
            if self._plugin is not None:
                self._plugin.close()
            if self._is_last and self._leftovers is not None:
                await self._leftovers.clear()
            pins.close()
            if self._is_last and not place.other.is_taken:
                clear_away(self.settings.run_dir)

    async def drained(self) -> None:
        """Wait for as long as its end would cut connections for no need."""
        if self._charge is not None and self._removal is not None:
            removal = self._removal
            await self._charge.drained(
                self.settings.drain_seconds, is_followed=lambda: removal.is_followed
            )
            if self._plugin is not None:
                await self._plugin.taken_away(self._charge)
            self._is_last = not self._charge.others.is_set() and await removal.ask()

    @contextlib.asynccontextmanager
    async def _answering_health(self) -> AsyncIterator[None]:
        path = self.settings.health_socket
        if path is None:
            yield
            return
        address = ListenAddress(path=str(path))
        pages = health_pages(self.readiness)
        async with serving(address, pages, remedy="choose another with --health-socket"):
            yield

    async def _let_pods_in(self, client: ApiClient) -> None:
        """Let pods be scheduled here from now on."""
        await self._can_capture.wait()
        await take_off(client, self.settings.node_name)

    async def _show_metrics(self, charge: Charge) -> None:
        """Show them while in charge: the next agent needs the port."""
        if self.settings.metrics is None or self._metrics is None:
            return
        while True:
            await charge.mine.wait()
            async with asyncio.TaskGroup() as tasks:
                page = tasks.create_task(
                    serve_when_free(self.settings.metrics, metrics_pages(self._metrics.page))
                )
                await charge.others.wait()
                page.cancel()

    async def _follow(self) -> None:
        states = follow(
            self._config, node_name=self.settings.node_name, on_trouble=self._note_troubles
        )
        async with contextlib.aclosing(states):
            async for state in states:
                self._state = state
                self._stored = state.world(
                    self.settings.trust_domain, root_namespace=self.settings.root_namespace
                )
                self._look_again()
                self._known.set()

    def _look_again(self) -> None:
        """Take in what the API server and the CNI plugin say."""
        if self._stored is not None:
            stored = self._stored
            self.world = self._plugin.over(stored) if self._plugin else stored
            self._local = self._local_pods.update(self.world)
        self._wake()

    async def _reconcile_forever(
        self,
        agent: NodeAgent,
        pins: Pins,
        marker: Marker,
        reporter: NodeReporter,
        ranges: ServiceRanges,
    ) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._state is None or self.world is None:
                continue
            self._memory.worked()
            pins.want(self._local.wanted | agent.using, self.world.pods)
            if self._plugin is not None:
                self._plugin.hold(pins, self.world, self._local.wanted)
            coming = self._local.wanted | self._local.coming
            agent.certificates.expect(_identities(self.world, coming))
            held = pins.held
            agent.set_service_ranges(ranges.networks)
            agent.update(
                self.world,
                {uid: held.get(uid) for uid in self._local.wanted},
                self._plugin.announced(held) if self._plugin is not None else {},
            )
            if agent.waiting:
                self._waits.set()
            if self._charge and agent.is_prepared and self._local.wanted <= pins.sought:
                self._charge.prepared.set()
            if not agent.is_active:
                marker.want(())
                self._pause(reporter)
                continue
            self._look_after_pods(self.world, agent, pins, marker)
            marker.want(self._marks(self.world, agent))
            if agent.follows:
                self._followed = self._state
            if agent.is_settled:
                self._enforced = self._state
            self._answer_plugin(self.world, agent, pins)
            self._report(agent, reporter)

    def _pause(self, reporter: NodeReporter) -> None:
        """Leave the node's pods to the other agent, whose report stands."""
        reporter.pause()
        if self._uncaptured is not None:
            self._uncaptured.pause()

    def _look_after_pods(self, world: World, agent: NodeAgent, pins: Pins, marker: Marker) -> None:
        """Take note of pods that are not as they should be."""
        if self._leftovers is not None:
            self._leftovers.see(self._local.wanted, self._others(world))
        if self._uncaptured is not None:
            self._uncaptured.see(world, agent, problems=pins.problems, unwritten=marker.troubles)

    async def _foresee(self, server: ApiClient, agent: NodeAgent) -> None:
        """Ask for the certificates of the node's pods before all of the cluster is known."""
        world = await foresee(server, self.settings)
        if world is not None and self.world is None:
            local = LocalPodsKeeper(self.settings.node_name).update(world)
            agent.certificates.expect(_identities(world, local.wanted))

    async def _hear(self, agent: NodeAgent, hearing: Hearing) -> None:
        """Tell the agent when all other nodes' pods go by its policies, while any waits for it."""
        while True:
            await self._waits.wait()
            self._waits.clear()
            pause = _FIRST_LOOK_SECONDS
            while agent.waiting and not await self._heard(agent, hearing):
                await asyncio.sleep(pause)
                pause *= 2

    async def _heard(self, agent: NodeAgent, hearing: Hearing) -> bool:
        state, world = self._state, self.world
        if state is None or world is None:
            return False
        nodes = {pod.node for pod in world.pods.values() if pod.captured}
        follow = await hearing.all_follow(self._digest(state), nodes - {self.settings.node_name})
        # Policies may have changed meanwhile, and even back.
        if not follow or self._state is None or self.world is None:
            return False
        if self._state.stored_policies != state.stored_policies:
            return False
        agent.hear(self.world)
        return True

    def _digest(self, state: ClusterState) -> str:
        """The digest of a state's policies, of which there may be many."""
        for policies, digest in self._digests:
            if policies is state.stored_policies:
                return digest
        digest = policy_digest(state.stored_policies)
        self._digests = [(state.stored_policies, digest), *self._digests[:1]]
        return digest

    def _marks(self, world: World, agent: NodeAgent) -> Iterator[tuple[Pod, Mark]]:
        """The pods whose marks are known, and what they are to be.

        What a pod of the mesh is marked as is left alone until it is captured: an earlier agent may
        have captured it. But not if that was another sandbox.
        """
        captured = agent.captured
        for uid in self._local.wanted:
            pod = world.pods[uid]
            if uid in captured:
                yield pod, self._mark(pod, agent)
            elif pod.captured_at is not None and not pod.captured:
                yield pod, Mark(None)
        for uid in self._local.others:
            pod = world.pods[uid]
            yield pod, Mark(pod.addresses if uid in captured else None)

    def _answer_plugin(self, world: World, agent: NodeAgent, pins: Pins) -> None:
        if self._plugin is not None:
            self._plugin.tell(world, self._local.opted_out)
            self._plugin.look(functools.partial(self._judge, agent, pins))
        if agent.is_settled and (self._plugin is None or self._plugin.is_installed):
            self._can_capture.set()

    def _judge(
        self, agent: NodeAgent, pins: Pins, uid: str, namespace: int
    ) -> CniVerdict | Waiting:
        """What to answer the CNI plugin about a pod and the number of its network namespace."""
        world = self.world
        pod = world.pods.get(uid) if world is not None else None
        if world is None or pod is None or pod.node != self.settings.node_name:
            return Waiting(CniVerdict("unknown", "the API server has not told of the pod yet"))
        if pod.namespace not in world.namespaces:  # it is watched apart from its pods
            return Waiting(
                CniVerdict("unknown", "the API server has not told of its namespace yet")
            )
        membership = world.membership(pod)
        if not membership.in_mesh:
            return CniVerdict("out", membership.why)
        held = pins.held.get(uid)
        if uid not in self._local.wanted or held is None or netns.inode(held) != namespace:
            lack = "its network namespace is not known yet"
        elif uid not in agent.captured:
            lack = agent.refused.get(uid, "Envoy has not taken its listeners yet")
        elif not agent.secures(uid, held) or Mark.of(pod) != self._mark(pod, agent):
            lack = "the API server has not taken its annotations yet"
        else:
            return CniVerdict("captured")
        return Waiting(CniVerdict("refused", lack))

    @staticmethod
    def _mark(pod: Pod, agent: NodeAgent) -> Mark:
        """What others are to be told of a captured pod."""
        return Mark(pod.addresses, agent.offers.get(pod.uid, NO_PORTS))

    def _report(self, agent: NodeAgent, reporter: NodeReporter) -> None:
        credentials = agent.credentials
        if self._enforced is None or self.world is None or credentials is None:
            return
        pods = self.world.pods
        reporter.tell(
            node_report(
                policies=self._digest(self._enforced),
                bundle=credentials.bundle,
                issuers=self._issuers.of(credentials.svids, credentials.bundle, datetime.now(UTC)),
                joining={pods[uid].namespace for uid in agent.joining & pods.keys()},
                clients=self._digest(self._followed) if self._followed is not None else "",
                captured=len(agent.redirected),
                plugin=self._plugin.is_installed if self._plugin is not None else False,
                uncaptured=self._uncaptured.uncaptured(self.world) if self._uncaptured else {},
                unmarked=self._uncaptured.unmarked(self.world) if self._uncaptured else {},
                leniency=agent.leniency,
                trouble="; ".join(
                    (*map(str, self._troubles.values()), *self._refused(), *self._notes())
                ),
            )
        )

    def _notes(self) -> tuple[str, ...]:
        runtime = self._runtime.trouble if self._runtime is not None else ""
        rules = self.agent.trouble if self.agent is not None else ""
        plugin = self._plugin.trouble if self._plugin is not None else ""
        return tuple(filter(None, (runtime, rules, plugin)))

    def _refused(self) -> tuple[str, ...]:
        if self.agent is None or self.world is None:
            return ()
        pods = self.world.pods
        problems = self._pins.problems if self._pins is not None else {}
        reasons = {**self.agent.refused, **problems}
        return tuple(
            f"pod {pods.get(uid, uid)} is not captured: {reason}"
            for uid, reason in sorted(reasons.items())
        )

    async def _adopt(self, leftovers: Leftovers) -> None:
        """Find the pods outside of the mesh that an earlier agent captured, to release them."""
        await self._known.wait()
        if self.world is not None:
            await leftovers.look(self._others(self.world))

    def _others(self, world: World) -> Mapping[str, Pod]:
        return {uid: world.pods[uid] for uid in self._local.others}

    def _make_agent(self, slot: Slot) -> NodeAgent:
        own = slot.directory
        return NodeAgent(
            node_name=self.settings.node_name,
            paths=NodePaths(
                ads=own / "ads",
                admin=own / "admin",
                worker=own / "worker",
                bootstrap=own / "bootstrap.json",
                access_log=own / "access-log",
                journal=self.settings.run_dir / "events",
            ),
            signer=self._signer,
            on_change=self._wake,
            on_restored=self._note_restoration,
            metrics=self._metrics,
            host=_HOST,
            announcement_seconds=self.settings.announcement_seconds,
            ports=slot.ports,
            active=False,
            pod_connections=self.settings.pod_connections,
            memory=self.settings.memory,
            keepalive_seconds=self.settings.keepalive_seconds,
        )

    def _knowledge(self) -> Knowledge | None:
        """What connection reviews are answered from; nothing while another agent is in charge."""
        if self.world is None or self._pins is None or self.agent is None:
            return None
        if not self.agent.is_active:
            return None
        return Knowledge(self.settings.node_name, self.world, self.agent, self._pins.find)

    async def _make_reporter(self, client: ApiClient) -> NodeReporter:
        name = self.settings.node_name
        while True:
            try:
                header = (await client.get(_NODE, name)).metadata
            except TrothError as error:
                _log.warning("this node is not known", reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            return NodeReporter(
                client, node=name, node_uid=header.uid, namespace=self.settings.namespace
            )

    def _adopt_roots(self) -> None:
        if self.agent is not None:
            self.agent.follow_roots(self._signer.signing_root)
        self._wake()

    def _note_restoration(self, restoration: Restoration) -> None:
        if self._uncaptured is not None:
            self._uncaptured.restored(self.world, restoration)

    def _note_troubles(self, troubles: Mapping[str, TrothError]) -> None:
        self._troubles = troubles
        self._wake()

    def _wake(self) -> None:
        self._woken.set()


def _identities(world: World, pods: Collection[str]) -> set[SpiffeId]:
    return {world.pods[uid].spiffe_id(world.trust_domain) for uid in pods}
