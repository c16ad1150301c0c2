from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from troth.agent import netns
from troth.errors import EnvironmentLackError, PeerError
from troth.local.network import BRIDGE, Network, interface_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import InNode


@contextlib.asynccontextmanager
async def two_pods(
    directory: Path,
) -> AsyncIterator[tuple[Network, list[Path], list[tuple[str, ...]]]]:
    network = Network()
    await network.start()
    paths = [directory / "a", directory / "b"]
    addresses = []
    for path in paths:
        netns.create(path)
        addresses.append(await network.add_pod(f"uid-{path.name}", path))
    yield network, paths, addresses
    await network.stop()
    for path in paths:
        netns.remove(path)


def number(namespace: str) -> int:
    return Path(namespace).stat().st_ino


async def exchange(server: Path, client: Path, address: str) -> bytes:
    """What a connection from one pod to ``address`` in the other receives."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.socket_in(server, family) as listener, netns.socket_in(client, family) as caller:
        listener.setblocking(False)
        caller.setblocking(False)
        listener.bind((address, 8080))
        listener.listen()
        await loop.sock_connect(caller, (address, 8080))
        accepted, peer = await loop.sock_accept(listener)
        with accepted:
            await loop.sock_sendall(accepted, peer[0].encode())
        return await loop.sock_recv(caller, 100)


async def pods_reach_each_other(directory: Path) -> None:
    async with two_pods(directory) as (_, (a, b), (a_addresses, b_addresses)):
        for a_address, b_address in zip(a_addresses, b_addresses, strict=True):
            assert await exchange(b, a, b_address) == a_address.encode()


def test_pods_reach_each_other_at_once_by_both_families_and_see_the_caller(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(pods_reach_each_other, tmp_path)


async def removed_pods_are_cut_off(directory: Path) -> None:
    async with two_pods(directory) as (network, (a, b), (_, b_addresses)):
        await network.remove_pod("uid-b")
        with pytest.raises(OSError, match=r"[Uu]nreachable|[Nn]o route|assign"):
            await asyncio.wait_for(exchange(b, a, b_addresses[0]), 10)


def test_a_removed_pod_is_cut_off(in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(removed_pods_are_cut_off, tmp_path)


async def a_pod_has_routes_and_sysctls(directory: Path) -> None:
    async with two_pods(directory) as (network, (a, _), _addresses):
        inside = netns.enter_command(a)

        def output(*command: str) -> str:
            return subprocess.run(
                [*inside, *command], capture_output=True, text=True, check=True
            ).stdout

        for family, gateway in zip(("-4", "-6"), network.gateways, strict=True):
            assert f"default via {gateway} dev eth0" in output("ip", family, "route")
        assert output("cat", "/proc/sys/net/ipv4/tcp_tw_reuse") == "1\n"
        assert "tentative" not in output("ip", "addr")
        assert "UP,LOWER_UP" in output("ip", "link", "show", "lo")


def test_a_pod_has_default_routes_sysctls_and_no_tentative_address(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(a_pod_has_routes_and_sysctls, tmp_path)


async def nothing_is_left(directory: Path) -> None:
    before = {name for _, name in socket.if_nameindex()}
    async with two_pods(directory):
        assert {BRIDGE, interface_name("uid-a")} <= {name for _, name in socket.if_nameindex()}
    assert {name for _, name in socket.if_nameindex()} == before


def test_stopping_leaves_no_interface_and_the_test_run_never_had_one(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(nothing_is_left, tmp_path)
    assert BRIDGE not in {name for _, name in socket.if_nameindex()}


async def failures_leave_nothing(directory: Path) -> None:
    network = Network(v4=IPv4Network("10.0.0.0/30"))  # room for a single pod
    await network.start()
    for _ in range(3):
        with pytest.raises(PeerError, match="does not exist"):
            await network.add_pod("uid", directory / "missing")
    assert interface_name("uid") not in {name for _, name in socket.if_nameindex()}
    with pytest.raises(EnvironmentLackError, match="make the bridge troth0: File exists"):
        await Network().start()


def test_what_fails_is_said_and_leaves_nothing(in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(failures_leave_nothing, tmp_path)


def namespaces_come_and_go(directory: Path) -> None:
    path = directory / "pod"
    own = number("/proc/self/ns/net")
    netns.create(path)
    assert netns.inode(path) != own
    assert netns.call_in(path, lambda: number("/proc/thread-self/ns/net")) == netns.inode(path)
    assert number("/proc/self/ns/net") == own
    netns.remove(path)
    assert not path.exists()
    with pytest.raises(PeerError):
        netns.inode(path)


def test_the_process_itself_never_changes_its_namespace(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(namespaces_come_and_go, tmp_path)


async def a_socket_is_of_its_pod(directory: Path) -> None:
    path = directory / "pod"
    netns.create(path)
    with netns.socket_in(path, socket.AF_INET) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        with netns.socket_in(path, socket.AF_INET) as same:
            same.connect(address)
        with socket.socket() as outside, pytest.raises(OSError, match=r"refused|unreachable"):
            outside.connect(address)


def test_a_socket_made_in_a_pod_is_not_reachable_from_the_node(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(a_socket_is_of_its_pod, tmp_path)
