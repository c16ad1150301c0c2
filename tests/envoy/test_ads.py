from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

from troth.envoy.ads import AdsServer
from troth.envoy.bootstrap import bootstrap
from troth.envoy.limits import Limits
from troth.envoy.process import EnvoyOptions, EnvoyProcess, find_envoy
from troth.envoy.snapshot import CLUSTER, LISTENER, Snapshot, XdsResource
from troth.errors import EnvironmentLackError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from troth.envoy.delta import Nack

    Until = Callable[[Callable[[], object]], Awaitable[None]]


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.acks: list[tuple[str, tuple[str, ...], float | None]] = []
        self.nacks: list[Nack] = []

    def acked(self, type_url: str, names: tuple[str, ...], seconds: float | None) -> None:
        self.acks.append((type_url, names, seconds))

    def nacked(self, nack: Nack, seconds: float | None) -> None:
        del seconds
        self.nacks.append(nack)

    def names(self) -> list[str]:
        """Of all the listeners ACKed, in order."""
        return [name for kind, names, _ in self.acks if kind == LISTENER for name in names]


def listener(name: str, port: int, *, chains: bool = True) -> XdsResource:
    message = listener_pb2.Listener(name=name)
    message.address.socket_address.address = "127.0.0.1"
    message.address.socket_address.port_value = port
    if chains:
        proxy = any_pb2.Any()
        proxy.Pack(tcp_proxy_pb2.TcpProxy(stat_prefix="t", cluster="none"))
        message.filter_chains.add().filters.add(name="tcp", typed_config=proxy)
    return XdsResource.of(name, message)


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def server(run_dir: Path, recorder: Recorder) -> AsyncIterator[AdsServer]:
    server = AdsServer(run_dir / "ads", observer=recorder)
    await server.start()
    yield server
    await server.stop(0)


@pytest.fixture
async def envoy(run_dir: Path) -> AsyncIterator[EnvoyProcess]:
    data = bootstrap(
        node_id="test",
        ads_socket=run_dir / "ads",
        admin_socket=run_dir / "admin",
        worker_socket=run_dir / "worker",
        reset_socket=run_dir / "reset",
        limits=Limits(connections=100),
    )
    path = run_dir / "bootstrap.json"
    path.write_text(json.dumps(data))
    envoy = EnvoyProcess(EnvoyOptions(bootstrap=path, binary=find_envoy()))
    await envoy.start()
    yield envoy
    await envoy.stop()


class Stream:
    """A client's end of a delta ADS stream."""

    def __init__(self, channel: Any) -> None:
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        self._call = stub.DeltaAggregatedResources()

    async def ask(self, type_url: str) -> None:
        await self._call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url))

    async def take(self) -> Any:
        """Read a response and ACK it."""
        response = await self._call.read()
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=response.type_url, response_nonce=response.nonce
        )
        await self._call.write(request)
        return response

    async def leave(self) -> None:
        self._call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._call.read()


@pytest.fixture
async def channel(server: AdsServer, run_dir: Path) -> AsyncIterator[Any]:
    del server
    async with grpc.aio.insecure_channel(f"unix:{run_dir / 'ads'}") as channel:
        yield channel


async def test_the_socket_is_ours_alone(server: AdsServer, run_dir: Path) -> None:
    del server
    assert stat.S_IMODE(os.lstat(run_dir / "ads").st_mode) == 0o600
    assert os.umask(0o022) == 0o022


async def test_a_directory_that_others_can_enter_is_refused(run_dir: Path) -> None:
    (run_dir / "open").mkdir()
    (run_dir / "open").chmod(0o755)
    with pytest.raises(EnvironmentLackError, match="not for this user alone"):
        await AdsServer(run_dir / "open" / "ads").start()


async def test_a_directory_is_made_for_us_alone(run_dir: Path) -> None:
    server = AdsServer(run_dir / "new" / "ads")
    await server.start()
    assert stat.S_IMODE((run_dir / "new").stat().st_mode) == 0o700
    await server.stop(0)


async def test_a_socket_path_that_is_too_long_is_refused(run_dir: Path) -> None:
    with pytest.raises(EnvironmentLackError, match="longer than 107 bytes"):
        await AdsServer(run_dir / ("x" * 100)).start()


async def test_a_stranger_is_told_nothing_and_who_is_admitted_is_served_all_the_while(
    run_dir: Path,
) -> None:
    strangers: set[int] = set()
    server = AdsServer(run_dir / "ads", admits=lambda peer: peer.pid not in strangers)
    server.update(Snapshot.of([listener("one", 1)]))
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{run_dir / 'ads'}") as channel:
        envoy = Stream(channel)
        await envoy.ask(LISTENER)
        assert len((await envoy.take()).resources) == 1
        stranger = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ASK, str(run_dir / "ads"), LISTENER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        strangers.add(stranger.pid)
        said, _ = await stranger.communicate(b"go\n")
        assert said == b"refused: UNAVAILABLE\n"
        server.update(Snapshot.of([listener("one", 1), listener("two", 2)]))
        assert len((await envoy.take()).resources) == 1
        await envoy.leave()
    await server.stop(0)


ASK = """
import sys, grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
path, kind = sys.argv[1:]
sys.stdin.readline()
with grpc.insecure_channel(f"unix:{path}") as channel:
    stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
    request = discovery_pb2.DeltaDiscoveryRequest(type_url=kind)
    try:
        print("told", next(iter(stub.DeltaAggregatedResources(iter([request])))))
    except grpc.RpcError as error:
        print("refused:", error.code().name)
"""


async def test_nothing_is_settled_without_an_envoy(server: AdsServer) -> None:
    status = server.status()
    assert (status.connected, status.settled) == (False, False)


async def test_status_speaks_of_the_envoy_that_connected_last(
    server: AdsServer, channel: Any, until: Until
) -> None:
    old = Stream(channel)
    await old.ask(CLUSTER)
    await old.take()
    await server.settled()
    new = Stream(channel)
    await new.ask(LISTENER)
    await new.take()
    server.update(Snapshot.of([listener("a", 1)]))
    await new.take()
    await server.settled()
    assert server.status().types[LISTENER].acked == 1
    await new.leave()
    await until(lambda: not server.status().settled)  # the old one never asked for listeners
    assert server.status().connected
    await old.leave()
    await until(lambda: not server.status().connected)


async def test_updates_are_coalesced(server: AdsServer, channel: Any) -> None:
    stream = Stream(channel)
    await stream.ask(LISTENER)
    await stream.take()
    for port in range(1, 50):
        server.update(Snapshot.of([listener("a", port)]))
    response = await stream.take()
    await server.settled()
    assert [each.version for each in response.resources] == [listener("a", 49).version]


async def test_a_stop_ends_streams_cleanly(run_dir: Path) -> None:
    server = AdsServer(run_dir / "ads")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{run_dir / 'ads'}") as channel:
        stream = Stream(channel)
        await stream.ask(LISTENER)
        await stream.take()
        await server.stop(1)
        assert await stream._call.code() == grpc.StatusCode.OK
    assert not (run_dir / "ads").exists()


@pytest.mark.e2e
async def test_envoy_takes_its_configuration(
    server: AdsServer, envoy: EnvoyProcess, recorder: Recorder, free_port: Callable[[], int]
) -> None:
    del envoy
    first, second = free_port(), free_port()
    server.update(Snapshot.of([listener("first", first)]))
    await server.settled()
    assert await listens(first)
    server.update(Snapshot.of([listener("first", first), listener("second", second)]))
    await server.settled()
    assert recorder.names() == ["first", "second"]
    assert await listens(second)
    seconds = recorder.acks[-1][2]
    assert seconds is not None
    assert seconds > 0
    status = server.status()
    assert status.nacks == ()
    assert status.last_push is not None
    assert status.last_ack is not None


@pytest.mark.e2e
async def test_envoy_refuses_a_bad_listener_in_its_own_words_and_takes_the_good_one(
    server: AdsServer, envoy: EnvoyProcess, recorder: Recorder, free_port: Callable[[], int]
) -> None:
    del envoy
    good, bad = free_port(), free_port()
    server.update(Snapshot.of([listener("good", good), listener("bad", bad, chains=False)]))
    await server.settled()
    (nack,) = server.status().nacks
    assert (nack.type_url, nack.name) == (LISTENER, "bad")
    assert nack.message.endswith("no filter chains specified")
    assert recorder.nacks == [nack]
    assert (await listens(good), await listens(bad)) == (True, False)
    server.update(Snapshot.of([listener("good", good), listener("bad", bad)]))
    await server.settled()
    assert server.status().nacks == ()
    assert await listens(bad)


@pytest.mark.e2e
async def test_a_restarted_server_sends_only_what_differs(
    run_dir: Path, envoy: EnvoyProcess, free_port: Callable[[], int]
) -> None:
    kept, gone, added = free_port(), free_port(), free_port()
    first = AdsServer(run_dir / "ads")
    first.update(Snapshot.of([listener("kept", kept), listener("gone", gone)]))
    await first.start()
    await first.settled()
    await first.stop(0)
    assert await listens(kept)
    recorder = Recorder()
    second = AdsServer(run_dir / "ads", observer=recorder)
    second.update(Snapshot.of([listener("kept", kept), listener("added", added)]))
    await second.start()
    await second.settled()
    assert sorted(recorder.names()) == ["added", "gone"]
    assert await listens(added)
    assert envoy.restarts == 0
    await second.stop(0)


@pytest.mark.e2e
async def test_an_envoy_that_was_killed_gets_all_of_it_again(
    server: AdsServer, envoy: EnvoyProcess, until: Until, free_port: Callable[[], int]
) -> None:
    port = free_port()
    server.update(Snapshot.of([listener("a", port)]))
    await server.settled()
    assert envoy.pid is not None
    os.kill(envoy.pid, 9)
    await until(lambda: not server.status().connected)
    await server.settled()
    assert envoy.restarts == 1
    assert await listens(port)


@pytest.mark.e2e
async def test_envoy_listens_on_a_port_that_was_taken_once_it_is_free(
    run_dir: Path, envoy: EnvoyProcess, until: Until, free_port: Callable[[], int]
) -> None:
    del envoy
    port = free_port()
    server = AdsServer(run_dir / "ads", retry_seconds=0.05)
    with socket.create_server(("127.0.0.1", port)):
        server.update(Snapshot.of([listener("late", port)]))
        await server.start()
        await server.settled()
        assert [nack.name for nack in server.nacks] == ["late"]
    await until(lambda: not server.nacks and server.status().settled)
    assert await listens(port)
    await server.stop(0)
