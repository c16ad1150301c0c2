"""One pod of a local mesh with all that belongs to it: namespace, addresses, names, processes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.agent import netns
from troth.errors import InputError, Problem
from troth.local.config import (
    EnvironmentSources,
    environment,
    from_host,
    mount_volumes,
    writable_path,
)
from troth.local.hosts import (
    HostDns,
    host_nsswitch,
    hosts_text,
    nsswitch_text,
    resolv_conf,
)
from troth.local.launch import users
from troth.local.pod import PodRunner, PodStatus, Prepared
from troth.local.services import apply_services
from troth.mesh.model import Pod, PodPhase

if TYPE_CHECKING:
    from collections.abc import Callable

    from troth.control.state_dir import StateDirectory
    from troth.local.network import Network
    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import Container, PodTemplate, Security
    from troth.mesh.model import Service

NOBODY = 65534
"""As whom a container runs that must not be root and names no other user."""

NODE_NAME = "local"
"""What ``spec.nodeName`` says in every pod."""


class Sandbox:
    """A pod from the making of its network namespace to its removal.

    Made by `create`. Its processes start with `start`, when the pod is captured or is not to be.

    Attributes:
        template: What it runs. Labels may change while it runs.
    """

    def __init__(
        self,
        template: PodTemplate,
        *,
        uid: str,
        path: Path,
        addresses: tuple[str, ...],
        network: Network,
        directory: Path,
        hidden: Path,
        host: HostDns,
        writable: tuple[str, ...],
        claims: Path,
        on_change: Callable[[], None],
        on_crash: Callable[[str], None],
    ) -> None:
        self.template = template
        self.uid = uid
        self.netns = path
        self.addresses = addresses
        self._network = network
        self._directory = directory
        self._hidden = hidden
        self._resolv_conf = resolv_conf(template, nameserver=network.gateways[0], host=host)
        self._writable = writable
        self._claims = claims
        self._on_change = on_change
        self._on_crash = on_crash
        self._runner: PodRunner | None = None
        self._manifests: Manifests | None = None
        self._services: tuple[Service, ...] = ()
        self._settled: tuple[Service, ...] | None = None

    @classmethod
    async def create(
        cls,
        template: PodTemplate,
        *,
        uid: str,
        state: StateDirectory,
        network: Network,
        host: HostDns,
        writable: tuple[str, ...] = (),
        claims: Path,
        on_change: Callable[[], None],
        on_crash: Callable[[str], None],
    ) -> Sandbox:
        """Make the pod's network namespace and link it to the others.

        Containers share what is at ``writable`` with the host, and may change it; persistent
        volume claims are kept in ``claims``.
        ``host`` is what the host's resolver is told, if the mesh has a way out.

        Raises:
            TrothError: The kernel refused.
        """
        path = state.netns / uid
        netns.create(path)
        addresses = await network.add_pod(uid, path)
        return cls(
            template,
            uid=uid,
            path=path,
            addresses=addresses,
            network=network,
            directory=state.pods / uid,
            hidden=state.path,
            host=host,
            writable=writable,
            claims=claims,
            on_change=on_change,
            on_crash=on_crash,
        )

    @property
    def key(self) -> str:
        """``NAMESPACE/NAME``."""
        return f"{self.template.namespace}/{self.template.name}"

    @property
    def started(self) -> bool:
        """Whether its processes have been started."""
        return self._runner is not None

    @property
    def status(self) -> PodStatus:
        """What its containers are doing."""
        if self._runner is None:
            return PodStatus(phase=PodPhase.PENDING, ready=False, init_containers=(), containers=())
        return self._runner.status

    @property
    def blocker(self) -> str:
        """What it is waiting for until it runs; empty when it does, or has done its work."""
        status = self.status
        if status.reason:
            return status.reason
        if status.phase in {PodPhase.RUNNING, PodPhase.SUCCEEDED}:
            troubled = next(
                (
                    each
                    for each in (*status.containers, *status.init_containers)
                    if each.reason == "CrashLoopBackOff"
                ),
                None,
            )
            if troubled is None:
                return ""
            left = troubled.starts_again - datetime.now(UTC) if troubled.starts_again else None
            again = f"started again in {max(ceil(left.total_seconds()), 0)} s; " if left else ""
            logs = self._logs_of(troubled.name)
            return f"container {troubled.name}: {again}{troubled.message}; {logs}"
        waiting = next(
            (c for c in (*status.init_containers, *status.containers) if c.message or c.reason),
            None,
        )
        if waiting is None:
            return "not started yet"
        if waiting.exit_code:
            ended = f"ended with exit code {waiting.exit_code}"
            logs = self._logs_of(waiting.name)
            return f"container {waiting.name}: {waiting.message or ended}; {logs}"
        return f"container {waiting.name}: {waiting.message or waiting.reason}"

    def _logs_of(self, container: str) -> str:
        option = "" if container == self.template.containers[0].name else f" -c {container}"
        return f"`troth logs {self.key}{option}` shows what it wrote"

    @property
    def left_out(self) -> tuple[str, ...]:
        """What its ``resolv.conf`` has no room for."""
        return self._resolv_conf.left_out

    async def set_services(self, services: tuple[Service, ...]) -> None:
        """Bring virtual IPs up to date.

        Args:
            services: All Services of the mesh.
        """
        if services == self._settled:
            return
        client = self.addresses[0]
        await apply_services(self.netns, services, client=client)
        self._services = services
        self._settled = services

    def forget_services(self) -> None:
        """Have `set_services` write them whatever it wrote before: somebody removed its rules."""
        self._settled = None

    def start(self, manifests: Manifests) -> None:
        """Start the pod's processes; ConfigMaps and Secrets come from ``manifests``."""
        self._manifests = manifests
        self._runner = PodRunner(
            self._pod(),
            self.template,
            netns=self.netns,
            directory=self._directory,
            prepare=self._prepare,
            working_directory=Path.home(),
            hidden=(self._hidden,),
            on_change=lambda _: self._on_change(),
            on_crash=self._on_crash,
        )
        self._runner.start(
            hosts=hosts_text(self._pod(), self.template),
            resolv_conf=self._resolv_conf.text,
            nsswitch=nsswitch_text(host) if (host := host_nsswitch()) else "",
        )

    def refresh(self, manifests: Manifests) -> None:
        """Use the ConfigMaps and Secrets of ``manifests`` from the next container start on."""
        self._manifests = manifests

    @property
    def patience(self) -> float:
        """Seconds within which its processes will have ended, once they are to."""
        return self._runner.patience if self._runner is not None else 0.0

    async def stop(self, grace: float | None = None) -> tuple[str, ...]:
        """End every process of the pod; argument, result and errors as of `PodRunner.stop`."""
        return await self._runner.stop(grace) if self._runner is not None else ()

    def hurry(self, grace: float) -> None:
        """Let the pod, which is ending, take at most ``grace`` more seconds."""
        if self._runner is not None:
            self._runner.hurry(grace)

    async def remove(self) -> None:
        """Remove the pod's link and namespace."""
        await self._network.remove_pod(self.uid)
        netns.remove(self.netns)

    def _pod(self) -> Pod:
        return Pod(
            uid=self.uid,
            namespace=self.template.namespace,
            name=self.template.name,
            labels=self.template.labels,
            service_account=self.template.service_account,
            owner=self.template.owner,
            node=NODE_NAME,
            addresses=self.addresses,
            ports=self.template.ports,
        )

    def _prepare(self, container: Container) -> Prepared:
        manifests = self._manifests
        assert manifests is not None  # noqa: S101 - set by start
        sources = EnvironmentSources(
            config_maps=manifests.config_maps,
            secrets=manifests.secrets,
            claims=manifests.claims,
            claims_directory=self._claims,
            services=self._services,
            host_addresses=self._network.gateways,
        )
        env = environment(container, self.template, self._pod(), sources, from_host(os.environ))
        volumes = self._directory / "volumes"
        pod = self._pod()
        binds = mount_volumes(container, self.template, sources, volumes, pod=pod, env=env)
        binds += [writable_path(path) for path in self._writable]
        return Prepared(env=env, binds=binds, security=self._security(container))

    def _security(self, container: Container) -> Security:
        """As whom a container runs.

        Raises:
            InputError: It must not be root, and is.
        """
        security = container.security.over(self.template.security)
        if users() == 1:
            return msgspec.structs.replace(
                security, user=None, group=None, groups=(), fs_group=None, not_root=None
            )
        if security.not_root and security.user is None:
            return msgspec.structs.replace(security, user=NOBODY)
        if security.not_root and security.user == 0:
            problem = Problem(
                subject=str(self.template),
                path=f"spec.containers[{container.name}].securityContext.runAsNonRoot",
                found="is true, but runAsUser is 0",
                wanted="name another user, or drop one",
            )
            raise InputError([problem])
        return security
