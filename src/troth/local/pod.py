"""Runs one pod: its init containers one by one, then its containers, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from troth.agent.netns import inode
from troth.control.messages import ContainerStatus, State
from troth.local.config import command_line
from troth.local.container import ContainerRunner, Patience, restarts
from troth.local.hosts import kernel_hostname, update_in_place
from troth.local.launch import Bind, LaunchSpec, join_command
from troth.local.processes import PodNamespaces, end_all
from troth.manifests.workloads import RestartPolicy, Security
from troth.mesh.model import PodPhase

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from troth.manifests.workloads import Container, PodTemplate
    from troth.mesh.model import Pod


class PodStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``PodStatus``, what troth needs of it.

    Attributes:
        phase: The sum of the containers' states; sidecars' don't count.
        ready: Services may send it connections: every container is ready.
        reason: Why it has failed as a whole, and not by one of its containers; else empty.
        init_containers: In the order of the manifest.
        containers: In the order of the manifest.
    """

    phase: PodPhase
    ready: bool
    init_containers: tuple[ContainerStatus, ...]
    containers: tuple[ContainerStatus, ...]
    reason: str = ""


def summarize(
    init_containers: Sequence[ContainerStatus],
    containers: Sequence[ContainerStatus],
    policy: RestartPolicy,
) -> PodStatus:
    """The pod's status from its containers'."""
    return PodStatus(
        phase=_phase(init_containers, containers, policy),
        ready=bool(containers)
        and all(each.ready for each in containers)
        and all(each.ready for each in init_containers if each.sidecar),
        init_containers=tuple(init_containers),
        containers=tuple(containers),
    )


def _phase(
    init_containers: Sequence[ContainerStatus],
    containers: Sequence[ContainerStatus],
    policy: RestartPolicy,
) -> PodPhase:
    first = [each for each in init_containers if not each.sidecar]
    if any(_is_over(c, policy, init=True) and c.exit_code for c in first):
        return PodPhase.FAILED
    if all(_is_over(c, policy, init=False) for c in containers):
        failed = any(container.exit_code for container in containers)
        return PodPhase.FAILED if failed else PodPhase.SUCCEEDED
    if any(c.state is State.RUNNING or c.exit_code is not None for c in containers):
        return PodPhase.RUNNING
    return PodPhase.PENDING


def _is_over(container: ContainerStatus, policy: RestartPolicy, *, init: bool) -> bool:
    """Whether it has ended and is not about to be started again."""
    if container.state is not State.TERMINATED or container.exit_code is None:
        return False
    return not restarts(policy, container.exit_code, init=init)


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What a container gets from the rest of the manifests.

    Attributes:
        env: All of its environment.
        binds: Its volumes.
        security: As whom it runs, and whether it may write to its root.
    """

    env: Mapping[str, str]
    binds: Sequence[Bind] = ()
    security: Security = Security()


class PodRunner:
    """Runs the containers of one pod in its network namespace, which must exist.

    Args:
        pod: The pod, with its uid and addresses.
        template: What it is made from.
        netns: The path of its network namespace.
        directory: The pod's own, not yet existing; logs are there as ``CONTAINER.log``.
        prepare: Gives each container its environment and volumes, asked again before every start;
            raises InputError when a reference leads nowhere, and is then asked again later.
        working_directory: Of containers that name none.
        hidden: Directories that containers must see empty, such as the mesh's state directory.
        on_change: Called with the new status after each change.
        on_crash: Told how a container has ended that did not succeed, with its last lines.
    """

    def __init__(
        self,
        pod: Pod,
        template: PodTemplate,
        *,
        netns: Path,
        directory: Path,
        prepare: Callable[[Container], Prepared],
        working_directory: Path,
        hidden: Sequence[Path] = (),
        on_change: Callable[[PodStatus], None],
        on_crash: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pod = pod
        self._template = template
        self._netns = netns
        self._directory = directory
        self._prepare = prepare
        self._working_directory = working_directory
        self._hidden = tuple(hidden)
        self._report = on_change
        self._on_crash = on_crash
        self._init = [self._runner(c, init=not c.is_sidecar) for c in template.init_containers]
        self._main = [self._runner(c, init=False) for c in template.containers]
        self._task: asyncio.Task[None] | None = None
        self._patience: Patience | None = None
        self._ending: asyncio.Task[tuple[str, ...]] | None = None
        self._namespace = 0
        self._overdue = ""
        self._namespaces: PodNamespaces | None = None
        self.status = self._summary()

    @property
    def hosts_path(self) -> Path:
        """The file that the containers see as ``/etc/hosts``."""
        return self._directory / "hosts"

    @property
    def resolv_conf_path(self) -> Path:
        """The file that the containers see as ``/etc/resolv.conf``."""
        return self._directory / "resolv.conf"

    @property
    def nsswitch_path(self) -> Path:
        """The file that the containers see as ``/etc/nsswitch.conf``, if there is one."""
        return self._directory / "nsswitch.conf"

    def start(self, *, hosts: str, resolv_conf: str, nsswitch: str = "") -> None:
        """Starts the pod with these texts as its ``/etc/hosts``, ``/etc/resolv.conf`` and so on.

        Raises:
            PeerError: There is no network namespace at the path given.
            EnvironmentLackError: The kernel refuses the pod's other namespaces.
        """
        self._namespace = inode(self._netns)
        self._namespaces = PodNamespaces(self._netns, self._hostname)
        self._directory.mkdir(mode=0o700, parents=True)
        (self._directory / "scratch").mkdir(mode=0o700)
        update_in_place(self.hosts_path, hosts)
        update_in_place(self.resolv_conf_path, resolv_conf)
        if nsswitch:
            update_in_place(self.nsswitch_path, nsswitch)
        self._task = asyncio.create_task(self._run(), name=f"pod {self._pod}")

    def exec_command(self, argv: Sequence[str], *, container: str = "") -> list[str]:
        """The command line that runs ``argv`` in a running container, as ``kubectl exec`` does.

        Args:
            argv: What to run.
            container: Which one; the first if empty.

        Raises:
            KeyError: The pod has no such container, or it was never started.
        """
        runners = {runner.container.name: runner for runner in (*self._main, *self._init)}
        runner = runners[container] if container else self._main[0]
        if not runner.spec_path.exists():
            raise KeyError(container)
        return join_command(runner.spec_path, argv)

    @property
    def patience(self) -> float:
        """Seconds within which it will have ended: of its grace period, until it is to end."""
        return self._patience.left if self._patience else float(self._grace)

    async def stop(self, grace: float | None = None) -> tuple[str, ...]:
        """End every process of the pod as the kubelet does.

        In each container at the same time: the ``preStop`` hook, then SIGTERM to its first process.
        What is left of the pod when all have ended, or when the grace period is over, is killed.
        Once it is ending, this only waits for it (and gives it less time, if ``grace`` is shorter).

        Args:
            grace: Seconds that it may take, if less than the pod's own termination grace period.

        Returns:
            What did not go as it should.

        Raises:
            PeerError: A process does not end.
        """
        if self._task is None:
            return ()
        if self._patience is None:
            self._patience = Patience(self._grace)
        if grace is not None:
            self.hurry(grace)
        if self._ending is None:
            ending = self._end(self._task, self._patience)
            self._ending = asyncio.create_task(ending, name=f"end of pod {self._pod}")
        return await asyncio.shield(self._ending)

    def hurry(self, grace: float) -> None:
        """Let the pod, which is ending, take at most ``grace`` more seconds; else a no-op."""
        if self._patience is not None:
            self._patience.cut(grace)

    @property
    def _grace(self) -> int:
        return self._template.termination_grace_seconds

    async def _end(self, running: asyncio.Task[None], patience: Patience) -> tuple[str, ...]:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        complaints = await self._end_containers(patience)
        await self._kept().close()
        return complaints

    async def _end_containers(self, patience: Patience) -> tuple[str, ...]:
        sidecars = self._sidecars
        others = [each for each in (*self._init, *self._main) if each not in sidecars]
        complaints = await asyncio.gather(*(runner.end(patience) for runner in others))
        for runner in reversed(sidecars):  # what the others may need to the last
            complaints.append(await runner.end(patience))
        runners = [*others, *reversed(sidecars)]
        late = [runner.process is not None for runner in runners]
        # It can't end before all others in its PID namespace have been waited for.
        await end_all(self._namespace, spare=self._kept().pid)
        for runner in runners:
            await runner.finish()
        return tuple(
            f"container {runner.container.name}: {text}"
            for runner, complaint, killed in zip(runners, complaints, late, strict=True)
            for text in (complaint, "killed, as it did not end in time" if killed else "")
            if text
        )

    @property
    def _sidecars(self) -> list[ContainerRunner]:
        return [runner for runner in self._init if runner.container.is_sidecar]

    async def _run(self) -> None:
        deadline = self._template.deadline
        try:
            async with asyncio.timeout(deadline):
                await self._run_all()
        except TimeoutError:
            self._overdue = f"DeadlineExceeded: it ran for activeDeadlineSeconds, {deadline}"
            await self._end_containers(Patience(self._grace))
            self._changed()

    async def _run_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            sidecars: list[asyncio.Task[int]] = []
            await self._run_with(sidecars, group)
            for task in sidecars:  # they aren't started again
                task.cancel()
        patience = Patience(self._grace)
        for runner in reversed(self._sidecars):
            await runner.end(patience)
            if runner.process is not None:
                runner.process.kill()
            await runner.finish()

    async def _run_with(self, sidecars: list[asyncio.Task[int]], group: asyncio.TaskGroup) -> None:
        """Run all that ends by itself, and beside it the sidecars, as tasks of ``group``."""
        for runner in self._init:
            if runner.container.is_sidecar:
                sidecars.append(group.create_task(runner.run()))
                await runner.started.wait()
            elif await runner.run():
                return  # with restartPolicy Never a failed init container fails the pod
        async with asyncio.TaskGroup() as main:
            for runner in self._main:
                main.create_task(runner.run())

    def _runner(self, container: Container, *, init: bool) -> ContainerRunner:
        return ContainerRunner(
            container,
            directory=self._directory,
            netns=self._netns,
            make_spec=self._make_spec,
            namespaces=self._kept,
            address=self._pod.addresses[0],
            policy=RestartPolicy.ALWAYS if container.is_sidecar else self._template.restart_policy,
            grace=self._grace,
            init=init,
            on_change=self._changed,
            on_crash=self._on_crash,
        )

    def _make_spec(self, container: Container) -> LaunchSpec:
        prepared = self._prepare(container)
        security = prepared.security
        volumes_group = () if security.fs_group is None else (security.fs_group,)
        return LaunchSpec(
            pod=str(self._pod),
            container=container.name,
            netns=str(self._netns),
            sandbox=self._kept().pid,
            argv=command_line(container, prepared.env),
            env=dict(prepared.env),
            # Another user may not even enter the home directory of who has started the mesh.
            cwd=container.working_dir or ("/" if security.user else str(self._working_directory)),
            binds=[
                *(
                    _own_file(path, f"/etc/{path.name}")
                    for path in (self.hosts_path, self.resolv_conf_path, self.nsswitch_path)
                    if path.exists()
                ),
                *prepared.binds,
            ],
            hidden=[str(path) for path in self._hidden],
            scratch=str(self._directory / "scratch"),
            read_only_root=security.read_only_root,
            capabilities=sorted(security.capabilities),
            user=security.user or 0,
            group=security.group or 0,
            groups=[*security.groups, *volumes_group],
        )

    def _kept(self) -> PodNamespaces:
        assert self._namespaces is not None  # noqa: S101 - set by start
        return self._namespaces

    @property
    def _hostname(self) -> str:
        return kernel_hostname(self._template)

    def _summary(self) -> PodStatus:
        status = summarize(
            [runner.status for runner in self._init],
            [runner.status for runner in self._main],
            self._template.restart_policy,
        )
        if self._overdue:
            return msgspec.structs.replace(
                status, phase=PodPhase.FAILED, ready=False, reason=self._overdue
            )
        return status

    def _changed(self) -> None:
        status = self._summary()
        if status != self.status:
            self.status = status
            self._report(status)


def _own_file(path: Path, target: str) -> Bind:
    return Bind(source=str(path), inside="", target=target, read_only=False, own=True)
