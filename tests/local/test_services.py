from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from troth.agent.capture import capture, release
from troth.agent.netns import create, enter_command, socket_in
from troth.local.network import Network
from troth.local.services import apply_services, service_rules
from troth.mesh.model import Endpoint, Protocol, Service, ServicePort
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import InNode

V4, V6 = "10.96.1.0", "fd74:726f:7468:96::100"


def service(*endpoints: Endpoint, protocol: Protocol = Protocol.TCP, **fields: Any) -> Service:
    port = ServicePort(number=80, name="http", protocol=protocol, endpoints=endpoints)
    values = {"cluster_ips": (V4, V6), "ports": (port,), **fields}
    return Service(namespace="finance", name="payments", **values)


def rules(*services: Service, client: str = "") -> list[str]:
    text = service_rules(services, client=client)
    return [line.strip() for line in text.splitlines() if " daddr " in line]


REJECTED = [
    f"ip daddr {V4} meta l4proto tcp reject with tcp reset",
    f"ip daddr {V4} reject with icmpx type port-unreachable",
    f"ip6 daddr {V6} meta l4proto tcp reject with tcp reset",
    f"ip6 daddr {V6} reject with icmpx type port-unreachable",
]


def test_each_family_is_balanced_over_its_own_endpoints() -> None:
    endpoints = Endpoint("fd00::2", 8080), Endpoint("10.0.0.3", 8080), Endpoint("10.0.0.2", 8080)
    assert rules(service(*endpoints)) == [
        (
            f"ip daddr {V4} tcp dport 80 dnat ip to numgen random mod 2 "
            'map { 0 : 10.0.0.2 . 8080, 1 : 10.0.0.3 . 8080 } comment "finance/payments:http"'
        ),
        (
            f"ip6 daddr {V6} tcp dport 80 dnat ip6 to numgen random mod 1 "
            'map { 0 : fd00::2 . 8080 } comment "finance/payments:http"'
        ),
        *REJECTED,
    ]


def test_udp_is_balanced_as_tcp_is_and_no_other_protocol() -> None:
    endpoint = Endpoint("10.0.0.2", 53)
    rule, *rejected = rules(service(endpoint, protocol=Protocol.UDP))
    assert rule.startswith(f"ip daddr {V4} udp dport 80 dnat ip to")
    assert rejected == REJECTED
    assert rules(service(endpoint, protocol=Protocol.SCTP)) == REJECTED


def test_a_client_stays_with_an_endpoint_whatever_becomes_of_others() -> None:
    endpoints = [Endpoint(f"10.0.0.{n}", 8080) for n in range(2, 7)]
    clients = [f"10.1.0.{n}" for n in range(100)]

    def usual(client: str, *endpoints: Endpoint) -> str:
        rule, *_ = rules(service(*endpoints, client_ip_affinity=True), client=client)
        found = re.search(r"mod 1 map { 0 : (\S+) . 8080 }", rule)
        assert found is not None
        return found[1]

    before = {client: usual(client, *endpoints) for client in clients}
    assert set(before.values()) == {endpoint.address for endpoint in endpoints}
    for gone in endpoints:
        left = [endpoint for endpoint in endpoints if endpoint != gone]
        for client in clients:
            moved = usual(client, *left) != before[client]
            assert moved is (before[client] == gone.address)


def test_a_client_has_an_endpoint_of_its_own_in_each_family() -> None:
    endpoints = [Endpoint(f"{net}{n}", 80) for n in range(2, 9) for net in ("fd00::", "10.0.0.")]
    first, second, *others = rules(service(*endpoints, client_ip_affinity=True), client="x")
    assert "mod 1 map { 0 : 10.0.0." in first
    assert "mod 1 map { 0 : fd00::" in second
    assert others == REJECTED


def test_a_headless_service_needs_no_rules() -> None:
    assert rules(service(Endpoint("10.0.0.2", 80), cluster_ips=())) == []


@contextlib.asynccontextmanager
async def pods(directory: Path) -> AsyncIterator[dict[str, tuple[Path, tuple[str, ...]]]]:
    network = Network()
    await network.start()
    made = {}
    for name in ("client", "one", "two"):
        path = directory / name
        create(path)
        made[name] = (path, await network.add_pod(name, path))
    yield made
    await network.stop()


@contextlib.contextmanager
def listening(netns: Path, address: str, name: str, port: int = 8080) -> Any:
    """A server in a pod that answers each connection with its name and the caller's address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket_in(netns, family) as listener:
        listener.setblocking(False)
        listener.bind((address, port))
        listener.listen()

        async def serve() -> None:
            loop = asyncio.get_running_loop()
            while True:
                connection, peer = await loop.sock_accept(listener)
                with connection:
                    await loop.sock_sendall(connection, f"{name} {peer[0]}".encode())

        task = asyncio.get_running_loop().create_task(serve())
        yield
        task.cancel()


async def call(netns: Path, address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket_in(netns, family) as connection:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            await loop.sock_connect(connection, (address, 80))
            return (await loop.sock_recv(connection, 100)).decode()


async def a_virtual_ip_reaches_every_endpoint(directory: Path) -> None:
    async with pods(directory) as made:
        client, client_addresses = made["client"]
        everything = [(name, *made[name]) for name in ("one", "two")]
        for family, virtual in enumerate((V4, V6)):
            with contextlib.ExitStack() as servers:
                for name, path, addresses in everything:
                    servers.enter_context(listening(path, addresses[family], name))
                ready = [Endpoint(addresses[family], 8080) for _, _, addresses in everything]
                await apply_services(client, [service(*ready)], client="")
                answers = {await call(client, virtual) for _ in range(40)}
                assert answers == {f"{name} {client_addresses[family]}" for name in ("one", "two")}
                await apply_services(client, [service(ready[0])], client="")
                assert {await call(client, virtual) for _ in range(10)} == {
                    f"one {client_addresses[family]}"
                }


async def a_pod_reaches_itself_through_a_service(directory: Path) -> None:
    async with pods(directory) as made:
        path, addresses = made["one"]
        with listening(path, addresses[0], "one"):
            await apply_services(path, [service(Endpoint(addresses[0], 8080))], client="")
            assert await call(path, V4) == f"one {addresses[0]}"


async def nothing_behind_a_virtual_ip_is_refused_at_once(directory: Path) -> None:
    async with pods(directory) as made:
        client, _ = made["client"]
        for protocol in (Protocol.TCP, Protocol.UDP):  # with UDP there is no such TCP port
            await apply_services(client, [service(protocol=protocol)], client="")
            for address in (V4, V6):
                with pytest.raises(ConnectionRefusedError):
                    await call(client, address)
        for family, address in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
            with socket_in(client, family, socket.SOCK_DGRAM) as datagrams:
                datagrams.connect((address, 80))
                datagrams.settimeout(10)
                with pytest.raises((ConnectionRefusedError, PermissionError)):
                    exchange(datagrams)


async def an_open_connection_outlives_the_last_endpoint(directory: Path) -> None:
    loop = asyncio.get_running_loop()
    async with pods(directory) as made:
        client, _ = made["client"]
        server, addresses = made["one"]
        for family, virtual in enumerate((V4, V6)):
            kind = socket.AF_INET6 if ":" in virtual else socket.AF_INET
            for left in ([service()], []):  # not ready any more; the Service is gone, too
                ready = service(Endpoint(addresses[family], 8080))
                await apply_services(client, [ready], client="")
                with (
                    socket_in(server, kind) as listener,
                    socket_in(client, kind) as caller,
                ):
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind((addresses[family], 8080))
                    listener.listen()
                    listener.setblocking(False)
                    caller.setblocking(False)
                    await loop.sock_connect(caller, (virtual, 80))
                    connection, _ = await loop.sock_accept(listener)
                    with connection:
                        await apply_services(client, left, client="")
                        for sender, receiver in ((caller, connection), (connection, caller)):
                            await loop.sock_sendall(sender, b"still here")
                            async with asyncio.timeout(10):
                                assert await loop.sock_recv(receiver, 100) == b"still here"
                if left:
                    with pytest.raises(ConnectionRefusedError):
                        await call(client, virtual)


def exchange(datagrams: socket.socket) -> bytes:
    datagrams.send(b"x")
    return datagrams.recv(1)


async def udp_is_balanced(directory: Path) -> None:
    async with pods(directory) as made:
        client, client_addresses = made["client"]
        path, addresses = made["one"]
        behind = service(Endpoint(addresses[0], 8080), protocol=Protocol.UDP)
        await apply_services(client, [behind], client="")
        with (
            socket_in(path, socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket_in(client, socket.AF_INET, socket.SOCK_DGRAM) as caller,
        ):
            server.bind((addresses[0], 8080))
            server.settimeout(10)
            caller.settimeout(10)
            caller.connect((V4, 80))
            caller.send(b"question")
            data, peer = server.recvfrom(100)
            assert (data, peer[0]) == (b"question", client_addresses[0])
            server.sendto(b"answer", peer)
            assert caller.recv(100) == b"answer"
            for left in ([service(protocol=Protocol.UDP)], []):
                await apply_services(client, left, client="")
                caller.send(b"again")
                assert server.recvfrom(100) == (b"again", peer)
                server.sendto(b"still here", peer)
                assert caller.recv(100) == b"still here"


async def capture_comes_before_the_services_and_leaves_no_gap(directory: Path) -> None:
    async with pods(directory) as made:
        client, _ = made["client"]
        server, addresses = made["one"]
        behind = service(*(Endpoint(address, 8080) for address in addresses))
        proxies = (("127.0.0.1", V4), ("::1", V6))
        with contextlib.ExitStack() as servers:
            for address in addresses:
                servers.enter_context(listening(server, address, "one"))
            for address, _ in proxies:
                proxy = listening(client, address, "proxy", PORT_SETS[0].outbound)
                servers.enter_context(proxy)

            async def who(virtual: str) -> str:
                return (await call(client, virtual)).split()[0]

            await apply_services(client, [behind], client="")
            for _ in range(2):
                await capture(client)
                for _, virtual in proxies:
                    assert await who(virtual) == "proxy"
                await apply_services(client, [behind], client="")  # whichever was there first
                for _, virtual in proxies:
                    assert await who(virtual) == "proxy"
                await release(client)
                for _, virtual in proxies:
                    assert await who(virtual) == "one"


async def applying_again_replaces_and_touches_no_other_table(directory: Path) -> None:
    path = directory / "pod"
    create(path)
    inside = enter_command(path)

    def nft(*arguments: str) -> str:
        command = [*inside, "nft", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    nft("add", "table", "inet", "other")
    for endpoints in (5, 1):
        behind = [Endpoint(f"10.0.0.{n}", 8080) for n in range(2, 2 + endpoints)]
        await apply_services(path, [service(*behind)], client="")
        listing = nft("list", "ruleset")
        assert re.findall("mod ([0-9]+)", listing) == [str(endpoints)]
        assert "table inet other" in listing


SCENARIOS = [
    a_virtual_ip_reaches_every_endpoint,
    a_pod_reaches_itself_through_a_service,
    nothing_behind_a_virtual_ip_is_refused_at_once,
    an_open_connection_outlives_the_last_endpoint,
    udp_is_balanced,
    capture_comes_before_the_services_and_leaves_no_gap,
    applying_again_replaces_and_touches_no_other_table,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_in_a_pod(scenario: Any, in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(scenario, tmp_path)
