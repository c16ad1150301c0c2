"""A whole mesh on one node: manifests in, running pods out, the node agent told of every change.

One loop compares what the manifests ask for with what runs, and does the difference. Whatever
happens (a file changed, a pod became ready, Envoy took a configuration) only wakes that loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog

from troth.errors import PeerError, TrothError
from troth.explain.validate import lint_together
from troth.local.addresses import ServiceAddresses
from troth.local.hosts import HostDns
from troth.local.jobs import JobPods, Jobs, SeenPod
from troth.local.launch import users
from troth.local.names import names_of
from troth.local.overrides import aimless, overridden
from troth.local.plan import PodPlan, Resolution, RunningPod, plan_pods, resolve, same_process
from troth.local.sandbox import NODE_NAME, Sandbox
from troth.manifests.collect import Manifests
from troth.manifests.runnable import ignored_notice, told_together
from troth.manifests.watch import watch
from troth.mesh.model import Namespace, Pod, PodPhase
from troth.mesh.world import Membership, World, membership
from troth.syntax import choices
from troth.traffic.history import History

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from troth.agent.agent import NodeAgent
    from troth.agent.proof import Restoration
    from troth.control.messages import JobReport
    from troth.control.state_dir import Settings, StateDirectory
    from troth.errors import Problem
    from troth.local.nameserver import NameServer
    from troth.local.network import Network
    from troth.manifests.workloads import PodTemplate, Workload

W = TypeVar("W", bound="Workload")

_log = structlog.get_logger(__name__)

_CATCH_UP_SECONDS = 1.0
"""How long a report waits for what is just changing."""

_REPLACED_AT_ONCE = frozenset({"Deployment", "ReplicaSet", "ReplicationController"})
"""The kinds of controllers whose pods have no name of their own in a cluster."""

SCALABLE = _REPLACED_AT_ONCE | {"StatefulSet"}

_OF_JOBS = frozenset({"Job", "CronJob"})

_UNANNOUNCE_SECONDS = 2.0
"""How long a pod that ends waits for Envoy to send it nothing new."""


def _seen(sandbox: Sandbox) -> SeenPod:
    status = sandbox.status
    containers = (*status.init_containers, *status.containers)
    restarts = sum(each.restarts for each in containers)
    return SeenPod(template=sandbox.template, phase=status.phase, restarts=restarts)


class LocalMesh:
    """Runs the pods of a set of manifests and keeps them in the mesh as these say.

    Args:
        settings: What was asked for.
        state: Where files go.
        network: The pods' network, started.
        agent: The node agent; `wake` is to be its ``on_change``.
        name_server: Is told the names of Services and pods.
        host: Says what the host's resolver is told, if there is a way out of the mesh.
    """

    def __init__(
        self,
        settings: Settings,
        state: StateDirectory,
        network: Network,
        agent: NodeAgent,
        *,
        name_server: NameServer,
        host: Callable[[], HostDns] = HostDns,
    ) -> None:
        self.settings = settings
        self.agent = agent
        self.notices: History[str] = History(kept=1000)
        self.manifests = Manifests()
        self.world: World | None = None
        self._state = state
        self._network = network
        self._name_server = name_server
        self._host = host
        self._virtual_ips = ServiceAddresses()
        self._sandboxes: dict[str, Sandbox] = {}
        self._terminating: dict[str, Sandbox] = {}
        self._troubles: dict[str, str] = {}
        self._read = self.manifests
        self._scaled: dict[str, tuple[int, int]] = {}
        self._restarting: frozenset[str] = frozenset()
        self._jobs = Jobs()
        self._job_pods = JobPods()
        self._plan = PodPlan(pods={})
        self._resolution = Resolution()
        self._doubts: tuple[Problem, ...] = ()
        self._known_problems: Mapping[str, Problem] = {}
        self._ignored: set[str] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._grace: float | None = None
        self._woken = asyncio.Event()
        self._wakes = 0
        self._acted_on = 0
        self._loaded = False
        self._changed = asyncio.Condition()
        self._revision = 0

    @property
    def sandboxes(self) -> tuple[Sandbox, ...]:
        """The pods that run or are about to, in order of their names."""
        return tuple(sandbox for _, sandbox in sorted(self._sandboxes.items()))

    @property
    def ending(self) -> tuple[Sandbox, ...]:
        """The pods that are to end and have not yet."""
        return tuple(self._terminating.values())

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that is wrong with the manifests as they stand."""
        return (
            *self.manifests.problems,
            *self._job_pods.problems,
            *self._plan.problems,
            *self._resolution.problems,
            *self._doubts,
        )

    @property
    def aliases(self) -> Mapping[str, str]:
        """What ExternalName Services stand for, as of `troth.manifests.services`."""
        return self._resolution.aliases

    def wake(self) -> None:
        """Look again: something has changed."""
        self._wakes += 1
        self._woken.set()

    def restored(self, restoration: Restoration) -> None:
        """Tell people what the agent has put back; its ``on_restored``."""
        for sandbox in (*self._sandboxes.values(), *self._terminating.values()):
            if sandbox.uid == restoration.pod:
                self.notices.add(f"pod {sandbox.key}: {restoration}")
                # Who flushes all rules of a pod takes those of its Services, too.
                sandbox.forget_services()
                self.wake()

    def waiting_for(self) -> tuple[str, ...]:
        """What is still missing until every pod runs as it should; empty when nothing is."""
        if self.world is None:  # read, maybe, but not acted on yet
            return ("the manifests",)
        if self._acted_on < self._wakes:
            return ("what has just changed",)
        blockers = [
            f"{key}: {blocker}" for key in self._plan.pods if (blocker := self._blocker(key))
        ]
        blockers += (f"{key}: {blocker}" for key, blocker in self._job_pods.blockers.items())
        if not self.agent.is_settled:
            blockers.append("Envoy: has not taken the newest configuration yet")
        return tuple(blockers)

    async def changes(self) -> AsyncIterator[None]:
        """Yields now, and then whenever something may have changed."""
        seen = -1
        while True:
            async with self._changed:
                # Also what changes while the caller is busy with the last change counts.
                await self._changed.wait_for(lambda: self._revision != seen)  # noqa: B023 - used at once
                seen = self._revision
            yield

    async def caught_up(self) -> None:
        """Wait until the last change has been acted on, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                async for _ in self.changes():
                    if self._acted_on >= self._wakes and self.agent.is_settled:
                        return

    def membership(self, template: PodTemplate) -> Membership:
        """Whether a pod made from ``template`` is in the mesh, and why."""
        namespace = self.manifests.namespaces.get(
            template.namespace, Namespace(name=template.namespace)
        )
        return membership(namespace, template.labels, host_network=template.host_network)

    def not_ended(self) -> tuple[tuple[str, ...], float]:
        """The pods that have not ended yet, and the seconds within which they would have."""
        sandboxes = (*self._terminating.values(), *self._sandboxes.values())
        keys = tuple(sorted({sandbox.key for sandbox in sandboxes}))
        return keys, max((sandbox.patience for sandbox in sandboxes), default=0.0)

    def hurry(self, grace: float) -> None:
        """Have pods take at most ``grace`` seconds to end, also those that are ending."""
        self._grace = grace if self._grace is None else min(self._grace, grace)
        for sandbox in (*self._terminating.values(), *self._sandboxes.values()):
            sandbox.hurry(self._grace)

    @property
    def jobs(self) -> tuple[JobReport, ...]:
        """Jobs, and those that CronJobs have made."""
        return self._job_pods.jobs

    def restart(self, name: str) -> tuple[str, ...]:
        """Have a pod, or those of a workload, ended and made anew; their names.

        Raises:
            PeerError: There is none, or it is a Job's.
        """
        named = [each for each in self.sandboxes if name in (each.key, each.template.owner_key)]
        if not named:
            known = (sandbox.key for sandbox in self.sandboxes)
            raise PeerError("troth", f"no pod or workload is called {name!r}", choices(name, known))
        if any(each.template.owner_kind in _OF_JOBS for each in named):
            raise PeerError(
                "troth", f"{name} is a Job's, and done when it is done", "change the Job's template"
            )
        self._restarting |= {each.uid for each in named}
        self.wake()
        return tuple(each.key for each in named)

    def scale(self, name: str, replicas: int) -> str:
        """Have a workload run so many pods until its manifest has another number; its name.

        Raises:
            PeerError: There is none that can have any number.
        """
        there = {
            f"{each.namespace}/{each.name}": each
            for each in (*self._read.workloads.values(), *self._read.deployments.values())
            if each.kind in SCALABLE
        }
        workload = there.get(name)
        if workload is None:
            what = f"no workload that can be scaled is called {name!r}"
            raise PeerError("troth", what, choices(name, there))
        self._scaled[str(workload)] = (workload.replicas, replicas)
        self.manifests = self._as_scaled()
        self.wake()
        return str(workload)

    def _as_scaled(self) -> Manifests:
        """What is written, with the replicas that were asked for since."""

        def scaled(workloads: Mapping[str, W]) -> dict[str, W]:
            return {
                key: msgspec.structs.replace(each, replicas=asked)
                if (asked := self._asked_replicas(each)) is not None
                else each
                for key, each in workloads.items()
            }

        return msgspec.structs.replace(
            self._read,
            deployments=scaled(self._read.deployments),
            workloads=scaled(self._read.workloads),
        )

    def _asked_replicas(self, workload: Workload) -> int | None:
        written, asked = self._scaled.get(str(workload), (None, None))
        return asked if written == workload.replicas else None

    async def run(self) -> None:
        """Follow the manifests until cancelled; then stop every pod."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_manifests())
                tasks.create_task(self._reconcile_forever())
        finally:
            await self._stop_all()

    async def _follow_manifests(self) -> None:
        async for manifests in watch([Path(path) for path in self.settings.paths]):
            overrides = self.settings.overrides
            self._read = overridden(manifests, overrides)
            self.manifests = self._as_scaled()
            self._doubts = (
                *lint_together(manifests, root_namespace=self.settings.root_namespace),
                *aimless(manifests, overrides),
            )
            self._loaded = True
            self.wake()

    async def _reconcile_forever(self) -> None:
        while True:
            due = self._job_pods.due
            left = (due - datetime.now(UTC)).total_seconds() if due else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._woken.wait()
            self._woken.clear()
            wakes = self._wakes
            if self._loaded:
                await self._reconcile()
            self._acted_on = wakes
            await self._note_change()

    async def _reconcile(self) -> None:
        self._job_pods = self._jobs.observe(
            self.manifests,
            {key: _seen(sandbox) for key, sandbox in self._sandboxes.items()},
            datetime.now(UTC),
        )
        for notice in self._job_pods.notices:
            self.notices.add(notice)
        self._plan = plan_pods(self.manifests, self._job_pods.pods, one_user=users() == 1)
        for gone in self._troubles.keys() - self._plan.pods.keys():
            del self._troubles[gone]
        ending = []
        for key, sandbox in list(self._sandboxes.items()):
            template = self._plan.pods.get(key)
            again = sandbox.uid in self._restarting
            if template is None or again or not same_process(template, sandbox.template):
                self._terminating[sandbox.uid] = self._sandboxes.pop(key)
                ending.append(sandbox)
            else:
                sandbox.template = template
                sandbox.refresh(self.manifests)
        self._restarting = frozenset()
        for key, template in self._plan.pods.items():
            if key not in self._sandboxes and not self._has_to_wait(template):
                with self._reported(key):
                    self._sandboxes[key] = await self._make(template)
        self._tell_agent()
        await self._settle_pods()
        for sandbox in ending:  # no Service leads to them any more
            self._stop_soon(sandbox)
        self._report_problems()

    def _has_to_wait(self, template: PodTemplate) -> bool:
        """Whether a pod can't be made yet.

        One of its name hasn't ended, with which it may share data, or one of its StatefulSet is not
        ready. A Deployment's pods are made beside those that they replace.
        """
        key = f"{template.namespace}/{template.name}"
        if template.owner_kind not in _REPLACED_AT_ONCE and self._is_ending(key):
            return True
        before = self._plan.after.get(key)
        if before is None:
            return False
        return before not in self._sandboxes or not self._sandboxes[before].status.ready

    def _is_ending(self, key: str) -> bool:
        return any(each.key == key for each in self._terminating.values())

    async def _make(self, template: PodTemplate) -> Sandbox:
        uid = str(uuid.uuid4())
        self.notices.add(f"pod {template.namespace}/{template.name}: starting")
        sandbox = await Sandbox.create(
            template,
            uid=uid,
            state=self._state,
            network=self._network,
            host=self._host(),
            writable=self.settings.writable,
            claims=Path(self.settings.claims) if self.settings.claims else self._state.claims,
            on_change=self.wake,
            on_crash=lambda text: self.notices.add(
                f"pod {template.namespace}/{template.name}: {text}"
            ),
        )
        for each in sandbox.left_out:
            self.notices.add(f"pod {sandbox.key}: its resolv.conf has no room for {each}")
        return sandbox

    def _tell_agent(self) -> None:
        """Derive the world from manifests and pods, and have it enforced."""
        pods, wanted = {}, {}
        for sandbox in (*self._sandboxes.values(), *self._terminating.values()):
            template = sandbox.template
            in_mesh = self.membership(template).in_mesh
            if in_mesh:
                wanted[sandbox.uid] = sandbox.netns
            pods[sandbox.uid] = Pod(
                uid=sandbox.uid,
                namespace=template.namespace,
                name=template.name,
                labels=template.labels,
                service_account=template.service_account,
                owner=template.owner,
                node=NODE_NAME,
                addresses=sandbox.addresses,
                ports=template.ports,
                # Also while it leaves: it takes plaintext before its clients send it.
                captured=sandbox.uid in self.agent.captured,
                ready=sandbox.status.ready and sandbox.uid not in self._terminating,
                terminating=sandbox.uid in self._terminating,
                phase=sandbox.status.phase,
            )
        self._resolution = resolve(
            self.manifests,
            self._virtual_ips,
            [
                RunningPod(pod=pods[sandbox.uid], template=sandbox.template)
                for sandbox in self._sandboxes.values()
            ],
            families=self._network.families,
        )
        self.world = World(
            trust_domain=self.agent.trust_domain,
            root_namespace=self.settings.root_namespace,
            namespaces=self.manifests.namespaces,
            pods=pods,
            services=self._resolution.services,
            policies=tuple(self.manifests.policies.values()),
        )
        self._name_server.names = names_of(
            self._resolution,
            (pod for pod in pods.values() if not pod.phase.is_final),
        )
        self.agent.update(self.world, wanted)

    async def _settle_pods(self) -> None:
        """Bring virtual IPs of each pod up to date, and start those that may start."""
        world = self.world
        assert world is not None  # noqa: S101 - set just before
        services = tuple(world.services.values())
        for uid, sandbox in tuple(self._terminating.items()):
            if uid in self._terminating:  # it may still have something to say to others
                with contextlib.suppress(TrothError):  # it has just ended
                    await sandbox.set_services(services)
        for key, sandbox in self._sandboxes.items():
            with self._reported(key):
                await sandbox.set_services(services)
                captured = sandbox.uid in self.agent.captured
                if not sandbox.started and (captured or not self._meant(sandbox)):
                    sandbox.start(self.manifests)

    def _meant(self, sandbox: Sandbox) -> bool:
        return self.membership(sandbox.template).in_mesh

    def _blocker(self, key: str) -> str:
        if key in self._troubles:
            return self._troubles[key]
        if key not in self._sandboxes:
            if self._is_ending(key):
                return "the pod that it replaces has not ended yet"
            return f"{self._plan.after.get(key, 'the pod before it')} is not ready"
        sandbox = self._sandboxes[key]
        if sandbox.template.owner_kind in _OF_JOBS and sandbox.status.phase is PodPhase.FAILED:
            return ""  # its Job tells what that means
        if self._meant(sandbox) and sandbox.uid not in self.agent.captured:
            return self.agent.refused.get(sandbox.uid, "not captured yet")
        return sandbox.blocker

    def _stop_soon(self, sandbox: Sandbox) -> None:
        self.notices.add(f"pod {sandbox.key}: stopping")
        task = asyncio.create_task(self._stop(sandbox))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _stop(self, sandbox: Sandbox) -> None:
        """End a pod as a cluster does: no new connections, then its processes, then the rest.

        It stays captured to the end: what a dying process sends is encrypted like all else.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_UNANNOUNCE_SECONDS):
                await self.agent.enforced()
        self._tell(sandbox, await sandbox.stop(self._grace))
        del self._terminating[sandbox.uid]
        self._tell_agent()
        # Envoy's sockets would keep the namespace alive, so its listeners go first.
        await self.agent.enforced()
        await sandbox.remove()
        self.wake()

    async def _stop_all(self) -> None:
        """End all pods at once. Services stay as they are: some end by telling others of it."""
        for task in self._stopping:
            task.cancel()
        await asyncio.gather(*self._stopping, return_exceptions=True)

        async def stop(of: dict[str, Sandbox], key: str) -> None:
            self._tell(of[key], await of[key].stop(self._grace))
            del of[key]
            await self._note_change()

        both = (self._sandboxes, self._terminating)
        ending = [stop(of, key) for of in both for key in of]
        await asyncio.gather(*ending, return_exceptions=True)

    def _tell(self, sandbox: Sandbox, complaints: Iterable[str]) -> None:
        for complaint in complaints:
            self.notices.add(f"pod {sandbox.key}: {complaint}")

    async def _note_change(self) -> None:
        async with self._changed:
            self._revision += 1
            self._changed.notify_all()

    def _report_problems(self) -> None:
        problems = {str(problem): problem for problem in self.problems}
        known = self._known_problems
        for _, text in told_together(
            problems[key] for key in sorted(problems.keys() - known.keys())
        ):
            self.notices.add(text)
        for _, text in told_together(known[key] for key in sorted(known.keys() - problems.keys())):
            self.notices.add(f"solved: {text}")
        self._known_problems = problems
        for kind, _ in self.manifests.ignored:
            if kind not in self._ignored:
                self._ignored.add(kind)
                self.notices.add(ignored_notice(kind))

    @contextlib.contextmanager
    def _reported(self, key: str) -> Iterator[None]:
        """One pod's trouble is told and doesn't stop the others."""
        try:
            yield
        except TrothError as error:
            _log.warning("pod trouble", pod=key, reason=str(error))
            self._troubles[key] = str(error)
            self.notices.add(f"pod {key}: {error}")
        else:
            self._troubles.pop(key, None)
