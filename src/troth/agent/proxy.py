"""The node's Envoy with the server that it has its configuration from."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.envoy.ads import AdsServer
from troth.envoy.bootstrap import bootstrap
from troth.envoy.overflow import OverflowWatch
from troth.envoy.pipe import AccessLogPipe
from troth.envoy.process import EnvoyOptions, EnvoyProcess, find_envoy
from troth.envoy.worker import Worker
from troth.unix_sockets import is_our_user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from troth.agent.metrics import NodeMetrics
    from troth.envoy.limits import Limits
    from troth.unix_sockets import Peer


class NodePaths(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's sockets and files, all in directories that are its own."""

    ads: Path
    admin: Path
    worker: Path
    bootstrap: Path
    access_log: Path
    journal: Path

    @property
    def reset(self) -> Path:
        """The socket on which Envoy resets connections that have nowhere to go."""
        return self.admin.with_name("reset.sock")


_DRAIN_SECONDS = 1
"""How long Envoy lets connections live on that the policy no longer allows."""


class Proxy:
    """One Envoy.

    Args:
        node_name: Names it.
        paths: Where its sockets and files go.
        limits: What it may use.
        metrics: Hears of what it takes over.

    Attributes:
        ads: What it is told, and what it made of that.
        overflows: What it refuses for being too much.
        caught_up: As of `Worker`.
    """

    def __init__(
        self,
        *,
        node_name: str,
        paths: NodePaths,
        limits: Limits,
        metrics: NodeMetrics | None = None,
    ) -> None:
        self.ads = AdsServer(paths.ads, observer=metrics, admits=self._is_envoy)
        self.overflows = OverflowWatch(paths.admin)
        self._limits = limits
        self._node_name = node_name
        self._paths = paths
        self._process = EnvoyProcess(
            EnvoyOptions(
                bootstrap=paths.bootstrap,
                binary=find_envoy(),
                drain_time_s=_DRAIN_SECONDS,
                # To make sockets in the pods' namespaces, and to mark them.
                capabilities=("net_admin", "sys_admin"),
            )
        )
        self.caught_up = Worker(paths.worker, lambda: self._process.pid).caught_up

    @property
    def restarts(self) -> int:
        """How often it had to be started again."""
        return self._process.restarts

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[AccessLogPipe]:
        """Run it for as long as the context lasts; gives what it reports of connections."""
        self._write_bootstrap()
        with AccessLogPipe(self._paths.access_log) as pipe:
            await self.ads.start()
            try:
                await self._process.start()
                yield pipe
            finally:
                await self._process.stop()
                await self.ads.stop()

    def _is_envoy(self, peer: Peer) -> bool:
        """Whether it is the process that we started; its number is nobody else's while it runs."""
        return is_our_user(peer) and peer.pid == self._process.pid

    def _write_bootstrap(self) -> None:
        document = bootstrap(
            node_id=self._node_name,
            ads_socket=self._paths.ads,
            admin_socket=self._paths.admin,
            worker_socket=self._paths.worker,
            reset_socket=self._paths.reset,
            limits=self._limits,
        )
        self._paths.bootstrap.touch(mode=0o600)
        self._paths.bootstrap.write_bytes(msgspec.json.encode(document))
