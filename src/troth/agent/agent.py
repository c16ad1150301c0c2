"""The node agent: keeps one node's Envoy and its pods' capture in the state the world requires.

One loop pushes the newest world's configuration to Envoy, waits until Envoy has accepted it, and
only then captures or releases pods, so that traffic is never redirected to a missing listener, nor
loses one that it still needs. What others know about a pod decides how (see `pods`). While the loop
waits for anything, newer configurations are still pushed to Envoy.

While two agents are on a node, one acts and the other only keeps its Envoy up to date: first the
new one, until its Envoy can serve all pods, then the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from troth.agent.admission import AdmissionLimits, TunnelAdmission
from troth.agent.capturer import Capturer
from troth.agent.certificates import CertificateKeeper, CertificateSource
from troth.agent.configuration import Configuration, ConfigurationKeeper, EnvoyCredentials
from troth.agent.host_rules import HostRules
from troth.agent.metrics import Figures
from troth.agent.pods import DRAIN_SECONDS, Lack, Pods
from troth.agent.proof import CaptureProof
from troth.agent.proxy import Proxy
from troth.agent.refusals import KernelRefusals
from troth.agent.set_elements import PodSets
from troth.agent.sockets import Listeners
from troth.agent.wakeups import Wakeups
from troth.envoy.build import SnapshotKeeper
from troth.envoy.limits import Limits
from troth.mesh.ports import PORT_SETS
from troth.sockets import KEEPALIVE_SECONDS, Keepalive
from troth.traffic.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from troth.agent.metrics import NodeMetrics
    from troth.agent.proof import Part, Restoration
    from troth.agent.proxy import NodePaths
    from troth.envoy.delta import AdsStatus
    from troth.envoy.snapshot import Snapshot
    from troth.identity.spiffe import SpiffeId, TrustDomain
    from troth.mesh.model import Ports
    from troth.mesh.ports import PortSet
    from troth.mesh.view import LocalPod, NodeView
    from troth.mesh.world import World
    from troth.traffic.connection import Connection

_log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.001
"""Seconds by which a timer of the event loop may be early, at most."""

_RETRY_SECONDS = 0.5
"""Seconds between checks whether an agent is prepared to take charge."""

_LATE_LOOK_SECONDS = 2.0

_REFUSAL_SECONDS = 60.0
"""How long it waits for a configuration that Envoy rejects, before it takes charge without it.

An app on one of Envoy's ports must not block a node's upgrade forever.
"""


class NodeAgent:
    """Enforces the mesh on one node.

    Args:
        node_name: The name of the node's Envoy.
        paths: Where sockets and files go.
        signer: Signs the certificates of the node's service accounts.
        service_ranges: As of `set_service_ranges`.
        on_change: Called when a new world has come into force, and when `captured`, `refused`,
            `using`, `joining`, `redirected`, `secures`, `trouble` or `credentials` has changed.
        on_restored: Called when part of a pod's capture was restored.
        metrics: Gets connections, and Envoy's ACKs and NACKs.
        host: The node's own network namespace, if its processes may reach captured pods.
        announcement_seconds: Within what time the whole mesh knows that a pod is captured, or no
            longer captured; 0 if this is the only agent.
        ports: Where its Envoy listens in every pod.
        active: Whether it acts from the start, rather than when it takes charge.
        pod_connections: As of `Limits.of`.
        memory: As of `Limits.of`.
        keepalive_seconds: As of `Keepalive.of`.
    """

    def __init__(
        self,
        *,
        node_name: str,
        paths: NodePaths,
        signer: CertificateSource,
        service_ranges: Iterable[str] = (),
        on_change: Callable[[], None],
        on_restored: Callable[[Restoration], None] = lambda _: None,
        metrics: NodeMetrics | None = None,
        host: Path | None = None,
        announcement_seconds: float = 0.0,
        ports: PortSet = PORT_SETS[0],
        active: bool = True,
        pod_connections: int | None = None,
        memory: int | None = None,
        keepalive_seconds: int = KEEPALIVE_SECONDS,
    ) -> None:
        # Envoy inherits the limit on open files.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = Limits.of(descriptors=descriptors, pod_connections=pod_connections, memory=memory)
        self._listeners = Listeners(lambda: self._pods.netns)
        self._ledger = Ledger(
            paths.journal,
            complete=self._listeners.complete,
            count=metrics.connection if metrics is not None else None,
        )
        self.connections, self.journal = self._ledger.connections, self._ledger.journal
        self._wakeups = Wakeups(self._tell_envoy_of_news)
        self.certificates = CertificateKeeper(signer, on_change=self._wake)
        self._service_ranges = tuple(service_ranges)
        self._on_change = on_change
        self._proxy = Proxy(node_name=node_name, paths=paths, limits=limits, metrics=metrics)
        self._world: World | None = None
        self._configurations = ConfigurationKeeper(
            SnapshotKeeper(
                access_log=paths.access_log,
                ports=ports,
                pod_connections=limits.pod_connections,
                drain_seconds=DRAIN_SECONDS,
                keepalive=Keepalive.of(keepalive_seconds),
            ),
            alone=not announcement_seconds,
        )
        self._pushed: Snapshot | None = None
        self._due: set[float] = set()
        self._waiting: frozenset[str] = frozenset()
        self._offers: Mapping[str, Ports] = {}
        self._wanted: Mapping[str, Path | None] = {}
        self._announced: Mapping[str, Path] = {}
        self._secured: Mapping[str, Path] = {}
        self._ports = ports
        admission_limits = AdmissionLimits.of(limits)
        self._admission = TunnelAdmission(admission_limits)
        self._refusals = KernelRefusals()
        self._sets = PodSets()
        self._pods = Pods(grace=announcement_seconds)
        self._capturer = Capturer(self._pods, ports=ports, admission=admission_limits)
        self._proof = CaptureProof(
            self._pods, self._capturer, ports=ports, admission=admission_limits
        )
        self._restored: Counter[Part] = Counter()
        self._on_restored = on_restored
        self._host = (
            HostRules(host, on_change=self._wake, on_restored=self._tell_restored)
            if host is not None
            else None
        )
        self._alarm: asyncio.TimerHandle | None = None
        self._credentials: EnvoyCredentials | None = None
        self._joining: frozenset[str] = frozenset()
        self._told: tuple[object, ...] = ()
        self._generation = 0
        self._enforced = 0
        self._followed = 0
        self._progress = asyncio.Condition()
        self._acting = asyncio.Lock()
        self._stands_by = not active
        self._prepared = False
        self._refused_since: Mapping[str, float] = {}
        self.is_active = active
        if active:
            self._ledger.open()
        if metrics is not None:
            metrics.watch(self.figures)

    @property
    def captured(self) -> frozenset[str]:
        """UIDs of the pods whose traffic goes through Envoy, to announce to the mesh.

        A leaving pod is not among them, but stays captured until the world says that all know.
        """
        return self._pods.announced

    @property
    def using(self) -> frozenset[str]:
        """UIDs of the pods whose network namespaces are in use, including leaving ones."""
        return frozenset(self._pods.netns)

    @property
    def joining(self) -> frozenset[str]:
        """UIDs of the pods of the mesh that accept plaintext whatever the policy says.

        They have just joined, and not all their clients know.
        """
        return self._joining | self._pods.joining

    @property
    def redirected(self) -> frozenset[str]:
        """UIDs of the pods whose new connections go through Envoy, including leaving ones."""
        return self._pods.redirected

    def secures(self, uid: str, netns: Path) -> bool:
        """Whether the policy is enforced for a pod in this network namespace, and it is marked."""
        return self._secured.get(uid) == netns

    @property
    def refused(self) -> Mapping[str, str]:
        """Why pods that should be captured are not, by UID; also of those that are late for it."""
        return {**self.late(Lack.CAPTURE), **self._pods.refused}

    def late(self, lack: Lack) -> Mapping[str, str]:
        """The pods that have been without capture or mark for long; as of `Pods.late`."""
        return self._pods.late(lack, asyncio.get_running_loop().time())

    @property
    def led(self) -> frozenset[str]:
        """UIDs of the pods whose rules are known to lead new connections to this agent's Envoy."""
        return frozenset(self._pods.led_here)

    @property
    def trouble(self) -> str:
        """What is wrong with the node's own rules (`HostRules`); empty if nothing is."""
        return self._host.trouble if self._host is not None else ""

    @property
    def leniency(self) -> str:
        """As of `HostRules`."""
        return self._host.leniency if self._host is not None else ""

    @property
    def credentials(self) -> EnvoyCredentials | None:
        """What Envoy has acknowledged; None before it has acknowledged anything."""
        return self._credentials

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain of the identities it certifies."""
        return self.certificates.bundle.trust_domain

    @property
    def offers(self) -> Mapping[str, Ports]:
        """Ports to which pods of other nodes may send plaintext, to announce, by UID."""
        return self._offers

    @property
    def waiting(self) -> frozenset[str]:
        """UIDs of the pods that accept plaintext until other nodes' pods stop sending it."""
        return self._waiting

    @property
    def follows(self) -> bool:
        """Whether the node's pods, as clients, follow the newest world."""
        return self._followed >= self._generation

    def hear(self, world: World) -> None:
        """Record that all other nodes' pods, as clients, follow the policies of a world."""
        self._configurations.hear(world.policies)
        self._wake()

    @property
    def is_settled(self) -> bool:
        """Whether the newest world is enforced."""
        return self._enforced >= self._generation

    @property
    def is_prepared(self) -> bool:
        """Whether it can take charge: Envoy serves all captured pods of the newest world."""
        return self._prepared and self.is_settled

    @property
    def envoy_restarts(self) -> int:
        """How often Envoy had to be restarted."""
        return self._proxy.restarts

    def figures(self) -> Figures:
        """The agent in numbers, as it is now."""
        return Figures(
            generation=self._enforced,
            wanted_generation=self._generation,
            captured=len(self._pods.announced),
            not_captured=len(self.refused),
            envoy_connected=self._proxy.ads.is_connected,
            envoy_restarts=self._proxy.restarts,
            refused_resources=len(self._proxy.ads.nacks),
            certificates={
                str(identity): svid.not_after
                for identity, svid in self.certificates.current().items()
            },
            lost_events=self.journal.lost,
            restored=self._restored,
        )

    @property
    def envoy_is_connected(self) -> bool:
        """Whether Envoy has its stream open."""
        return self._proxy.ads.is_connected

    def ads_status(self) -> AdsStatus:
        """What Envoy has accepted and rejected."""
        return self._proxy.ads.status()

    def update(
        self,
        world: World,
        wanted: Mapping[str, Path | None],
        announced: Mapping[str, Path] = {},
    ) -> None:
        """Enforce ``world`` from now on.

        Args:
            world: Everything that is known.
            wanted: The node's own pods to capture, by UID, each with its network namespace as soon
                as that is known.
            announced: The network namespaces of those of them in which nothing runs before they
                are captured: see `secures`.
        """
        known = (self._world, self._wanted, self._announced)
        if (world, wanted, announced) == known:
            return
        self._world, self._wanted, self._announced = world, dict(wanted), dict(announced)
        self._ledger.follow(world)
        self._generation += 1
        self._wake()

    def set_service_ranges(self, ranges: Iterable[str]) -> None:
        """Set the networks that contain only services' virtual IPs."""
        ranges = tuple(ranges)
        if ranges != self._service_ranges:
            self._service_ranges = ranges
            self._generation += 1
            self._wake()

    def adopt(self, uid: str, netns: Path) -> None:
        """Take over a pod outside the mesh that an earlier agent captured, to release it."""
        self._pods.adopt(uid, netns)
        self._generation += 1
        self._wake()

    def take_charge(self, joining: Iterable[str] = ()) -> None:
        """Capture, release and keep the journal from now on, as another agent did until now.

        Args:
            joining: UIDs of the pods that it captured and that not everybody knows about yet.
        """
        self.is_active, self._stands_by = True, False
        self._pods.take_charge(frozenset(joining))
        self._ledger.open()
        self._generation += 1
        self._wake()

    async def step_back(self, tell: Callable[[Connection], None]) -> frozenset[str]:
        """Leave all that to another agent. Envoy continues, with what it enforces.

        Args:
            tell: Called with connections from now on.

        Returns:
            UIDs of the captured pods that not everybody knows about yet.
        """
        self.is_active = False
        async with self._acting:  # until what it does is done
            if self._host is not None:
                await self._host.let_go()
            self._proof.close()
            self._admission.close()
            self._refusals.close()
            self._sets.close()
            self._ledger.hand_over(tell)
            self._on_change()
            return self._pods.joining

    async def connected(self) -> bool:
        """Whether any connection of the node's pods goes through Envoy."""
        return await self._capturer.connected()

    def note(self, connection: Connection) -> None:
        """Record a connection of the node's pods."""
        self._ledger.note(connection)

    def follow_roots(self, signing_root: str = "") -> None:
        """Take note that the signer's roots have changed; argument as of `CertificateKeeper`."""
        self.certificates.follow(signing_root)
        self._wake()

    async def enforced(self) -> None:
        """Wait until Envoy enforces the newest world and its pods are captured."""
        async with self._progress:
            await self._progress.wait_for(lambda: self.is_settled)

    async def run(self) -> None:
        """Run until cancelled; then stop Envoy and leave its sockets removed."""
        with self._sets:
            await self._run()

    async def _run(self) -> None:
        async with self._proxy.running() as pipe, asyncio.TaskGroup() as tasks:
            tasks.create_task(self.certificates.run())
            for reports in (
                self._admission.heard(pipe.reports()),
                self._admission.dropped(),
                self._refusals.refused(),
                self._proxy.overflows.overflows(),
            ):
                tasks.create_task(self._ledger.read(reports))
            tasks.create_task(self.journal.run())
            tasks.create_task(self._tell_of_late_pods())
            if self._host is not None:
                tasks.create_task(self._host.run())
            tasks.create_task(
                self._proof.run(
                    self._while_nobody_acts, is_served=self._is_served, tell=self._tell_restored
                )
            )
            tasks.create_task(self._reconcile_forever())

    @contextlib.asynccontextmanager
    async def _while_nobody_acts(self) -> AsyncIterator[bool]:
        """Yield whether the agent is in charge, which doesn't change during the block."""
        async with self._acting:
            yield self.is_active

    async def _tell_of_late_pods(self) -> None:
        """Tell when pods become late, or are no longer, also while Envoy answers nothing."""
        told: object = None
        while True:
            late = [self.late(lack) for lack in Lack]
            if late != told:
                told = late
                self._on_change()
            await asyncio.sleep(_LATE_LOOK_SECONDS)

    def _is_served(self) -> bool:
        """Whether Envoy is connected and has accepted its whole configuration."""
        return self._proxy.ads.is_connected and self.is_settled

    def _tell_restored(self, restoration: Restoration) -> None:
        _log.warning(
            "put back what was changed",
            pod=restoration.pod,
            part=restoration.part,
            how=restoration.how,
        )
        self._restored[restoration.part] += 1
        self._sets.renew(restoration.pod)
        self._wake()
        self._on_restored(restoration)

    async def _reconcile_forever(self) -> None:
        while True:
            await self._wakeups.awake()
            if self._world is not None:
                await self._reconcile(self._world, self._wanted, self._generation)

    async def _reconcile(
        self, world: World, wanted: Mapping[str, Path | None], generation: int
    ) -> None:
        self._capturer.see(wanted, world.pods, announced=self._announced)
        joining = self._pods.joining
        # Before anything that may take time: a policy that forbids something must not wait.
        told = self._push(world)
        self.certificates.want({local.identity for local in told.view.local_pods.values()})
        undisturbed = self._wakeups.unless_disturbed
        missing = await undisturbed(self.certificates.missing())
        taken = None if missing is None else await undisturbed(self._taken(world, told))
        if missing is None or taken is None:
            return  # something newer to enforce; it is not held up by what Envoy hasn't taken yet
        told = taken
        self._credentials = told.credentials
        self._joining = joining
        await self._wakeups.finish(self._act(told, world, self._not_ready(told.view, missing)))
        self._secured = self._pods.secured if self.is_active else {}
        if told.rest_at is None:
            self._followed = generation
        self._waiting, self._offers = told.waiting, self._configurations.offers
        visible = self._visible()
        in_force = told.is_final and self._capturer.next_ear is None
        changed = (in_force and not self.is_settled) or visible != self._told
        self._told = visible
        if in_force:
            async with self._progress:
                self._enforced = generation
                self._progress.notify_all()
        if changed:
            _log.info(
                "enforced",
                generation=generation,
                policies=len(world.policies),
                captured=len(self._pods.announced),
                destinations=len(told.view.destinations),
            )
            self._on_change()

    def _push(self, world: World) -> Configuration:
        """Push to Envoy what it doesn't know yet of ``world``."""
        loop = asyncio.get_running_loop()
        told = self._configurations.update(
            world,
            netns=self._pods.listens_at,
            lenient=self._pods.lenient,
            service_ranges=self._service_ranges,
            credentials=EnvoyCredentials(
                tuple(self.certificates.current().values()), self.certificates.bundle
            ),
            now=loop.time(),
        )
        for moment in {told.rest_at, told.until, told.prune_at} - {None}:
            self._wake_once(moment)
        self._refusals.update(told.view.services)
        if told.snapshot != self._pushed:
            self._pushed = told.snapshot
            self._proxy.ads.update(told.snapshot)
        return told

    def _tell_envoy_of_news(self) -> bool:
        """Push what is newer than the awaited configuration; return whether there was anything."""
        pushed = self._pushed
        if self._world is not None:
            self._push(self._world)
        return self._pushed is not pushed

    async def _taken(self, world: World, told: Configuration) -> Configuration:
        """Wait until Envoy has everything in force, and take the resulting steps."""
        await self._proxy.ads.settled()
        while told.goes_on:
            await self._proxy.caught_up()
            self._configurations.confirm()
            told = self._push(world)
            await self._proxy.ads.settled()
        return told

    async def _act(self, told: Configuration, world: World, reasons: Mapping[str, str]) -> None:
        """Capture and release pods as due, now that Envoy has its listeners."""
        async with self._acting:
            if self.is_active:
                await self._enrol(told, reasons)
            elif self._stands_by:
                await self._prepare(world, told.ready - reasons.keys())

    async def _enrol(self, told: Configuration, reasons: Mapping[str, str]) -> None:
        probes = False
        if self._host is not None:
            if self._pods.wanted or self._pods.redirected:
                await self._host.let_in(_probed(told.view.local_pods.values()))
            probes = self._host.in_place
        if await self._capturer.act(told.ready, reasons, probes=probes):
            self._wake()
        if self._host is not None and not (self._pods.wanted or self._pods.redirected):
            await self._host.remove()
        redirected = {uid: self._pods.netns[uid] for uid in self._pods.redirected}
        async with self._sets.of(redirected) as sets:
            await self._admission.follow(sets)
            await self._refusals.follow(sets)
        await self._proof.follow()
        self._wake_at(self._capturer.next_look())

    async def _prepare(self, world: World, served: Collection[str]) -> None:
        now = asyncio.get_running_loop().time()
        found = {uid for uid, netns in self._wanted.items() if netns is not None}
        in_use = {uid for uid in found & world.pods.keys() if world.pods[uid].captured}
        refused = in_use & self._refused_by_envoy(in_use).keys()
        self._refused_since = {uid: self._refused_since.get(uid, now) for uid in refused}
        given_up = {
            uid for uid, since in self._refused_since.items() if now >= since + _REFUSAL_SECONDS
        }
        in_use -= given_up
        deaf = await self._capturer.not_listening(in_use.intersection(served))
        self._prepared = not deaf and in_use.issubset(served)
        if not self._prepared:
            self._wake_at(self._capturer.next_ear or now + _RETRY_SECONDS)

    def _visible(self) -> tuple[object, ...]:
        """What observers read after a change."""
        return (
            self.captured,
            self.refused,
            self.late(Lack.MARK),
            self.using,
            self.joining,
            self.redirected,
            self._secured,
            self.trouble,
            self._credentials,
            self._prepared,
            self._followed,
            self._waiting,
            self._offers,
        )

    def _not_ready(self, view: NodeView, missing: Mapping[SpiffeId, str]) -> dict[str, str]:
        """Why Envoy can't serve some of the pods, by UID."""
        reasons = {
            uid: f"Envoy refused its configuration: {words}"
            for uid, words in self._refused_by_envoy(view.local_pods).items()
        }
        for uid, local in view.local_pods.items():
            if local.identity in missing:
                reasons[uid] = f"no certificate: {missing[local.identity]}"
        return reasons

    def _refused_by_envoy(self, uids: Iterable[str]) -> dict[str, str]:
        """Envoy's errors for those of some pods whose configuration it rejects, by UID."""
        nacks = self._proxy.ads.nacks
        return {uid: nack.message for uid in uids for nack in nacks if uid in nack.name}

    def _wake_once(self, moment: float | None) -> None:
        """Wake up just after a moment, in addition to other wake-ups."""
        if moment is None or moment in self._due:
            return

        def look() -> None:
            self._due.discard(moment)
            self._wake()

        self._due.add(moment)
        asyncio.get_running_loop().call_at(moment + _TICK_SECONDS, look)

    def _wake_at(self, moment: float | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        self._alarm = None if moment is None else loop.call_at(moment, self._wake)

    def _wake(self) -> None:
        self._wakeups.wake()


def _probed(local_pods: Iterable[LocalPod]) -> set[tuple[str, int]]:
    """The addresses and ports that the kubelet may reach without redirection."""
    return {
        (address, port)
        for each in local_pods
        for address in each.pod.addresses
        for port in each.pod.probed
    }
