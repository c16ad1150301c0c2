"""A real Envoy that is out of connections or memory: what it refuses, and what gets through."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import any_pb2

from troth.envoy.accesslog import Role
from troth.envoy.ads import AdsServer
from troth.envoy.bootstrap import bootstrap
from troth.envoy.filters import tls_inspector
from troth.envoy.limits import RUNTIME_LAYER, Limits, runtime_layer
from troth.envoy.overflow import OverflowWatch
from troth.envoy.process import EnvoyOptions, EnvoyProcess, find_envoy
from troth.envoy.resources import listener_name
from troth.envoy.snapshot import Snapshot, XdsResource
from troth.traffic.connection import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.e2e

PLENTY = 1000


def plain_in(pod: str, port: int, *chains: str) -> XdsResource:
    """A listener that is called like that of a pod; it waits for what a client says first."""
    name = listener_name(Role.PLAIN_IN, pod)
    message = listener_pb2.Listener(name=name, stat_prefix=name, listener_filters=[tls_inspector()])
    message.listener_filters_timeout.SetInParent()  # zero: for ever
    message.address.socket_address.address = "127.0.0.1"
    message.address.socket_address.port_value = port
    proxy = any_pb2.Any()
    proxy.Pack(tcp_proxy_pb2.TcpProxy(stat_prefix="t", cluster="none"))
    for server_name in chains:
        chain = message.filter_chains.add(name=server_name)
        chain.filter_chain_match.server_names.append(server_name)
        chain.filters.add(name="tcp", typed_config=proxy)
    return XdsResource.of(name, message)


@contextlib.asynccontextmanager
async def running(run_dir: Path, limits: Limits) -> AsyncIterator[AdsServer]:
    """An Envoy with these limits, and the server that configures it."""
    document = bootstrap(
        node_id="test",
        ads_socket=run_dir / "ads",
        admin_socket=run_dir / "admin",
        worker_socket=run_dir / "worker",
        reset_socket=run_dir / "reset",
        limits=limits,
    )
    path = run_dir / "bootstrap.json"
    path.write_text(json.dumps(document))
    server = AdsServer(run_dir / "ads")
    await server.start()
    envoy = EnvoyProcess(EnvoyOptions(bootstrap=path, binary=find_envoy()))
    await envoy.start()
    try:
        yield server
    finally:
        await envoy.stop()
        await server.stop(0)


class Caller:
    """Makes connections that say nothing, and keeps them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._readers: list[asyncio.StreamReader] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, times: int = 1) -> None:
        for _ in range(times):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._readers.append(reader)
            self._writers.append(writer)

    async def is_refused(self) -> None:
        """Connect once more and wait for the end, which comes to none that is taken."""
        await self.connect()
        with contextlib.suppress(ConnectionError):
            await self._readers[-1].read()

    @property
    def open(self) -> int:
        return sum(not reader.at_eof() for reader in self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    async def leave(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def calling(port: int) -> AsyncIterator[Caller]:
    caller = Caller(port)
    try:
        yield caller
    finally:
        await caller.leave()


async def told(run_dir: Path) -> tuple[str, Reason, int]:
    """What is said first of connections that were too many."""
    report = await anext(OverflowWatch(run_dir / "admin").overflows())
    return report.pod, report.connection.reason, report.connection.count


async def test_a_pods_limit_counts_connections_that_have_said_nothing_yet(
    run_dir: Path, free_port: Callable[[], int]
) -> None:
    crowded, quiet = free_port(), free_port()
    limits = XdsResource.of(RUNTIME_LAYER, runtime_layer(["crowded", "quiet"], 3))
    async with (
        running(run_dir, Limits(connections=PLENTY)) as server,
        calling(crowded) as crowd,
        calling(quiet) as others,
    ):
        listeners = [plain_in("crowded", crowded, "a"), plain_in("quiet", quiet, "a")]
        server.update(Snapshot.of([limits, *listeners]))
        await server.settled()
        await crowd.connect(3)
        await crowd.is_refused()
        await others.connect(3)
        assert await told(run_dir) == ("crowded", Reason.TOO_MANY_CONNECTIONS, 1)
        assert (crowd.open, others.open) == (3, 3)


async def test_an_update_of_a_listener_in_place_lets_no_more_in(
    run_dir: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    limits = XdsResource.of(RUNTIME_LAYER, runtime_layer(["pod"], 3))
    async with running(run_dir, Limits(connections=PLENTY)) as server, calling(port) as caller:
        server.update(Snapshot.of([limits, plain_in("pod", port, "a")]))
        await server.settled()
        await caller.connect(3)
        server.update(Snapshot.of([limits, plain_in("pod", port, "a", "b")]))
        await server.settled()
        await caller.is_refused()
        assert caller.open == 3


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(connections=2), id="connections"),
        pytest.param(Limits(connections=PLENTY, heap_bytes=1024 * 1024), id="memory"),
    ],
)
async def test_an_overloaded_envoy_takes_its_configuration_and_no_connections(
    limits: Limits, run_dir: Path, free_port: Callable[[], int]
) -> None:
    port, later = free_port(), free_port()
    async with running(run_dir, limits) as server, calling(port) as caller:
        server.update(Snapshot.of([plain_in("pod", port, "a")]))
        await server.settled()
        # It looks at its memory four times a second, and until then takes what comes.
        while caller.open == len(caller):
            await caller.connect()
            await asyncio.sleep(0.01)
        pod, reason, _ = await told(run_dir)
        assert (pod, reason) == ("pod", Reason.NODE_OVERLOADED)
        server.update(Snapshot.of([plain_in("pod", port, "a"), plain_in("new", later, "a")]))
        await server.settled()
        assert not server.nacks
        async with calling(later) as new:
            await new.is_refused()
