"""What nothing serves is refused ahead of Envoy, by the kernel in namespaces of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, Any

import pytest
from tests.node.test_capture import (
    OTHER,
    OTHER_V6,
    family_of,
    listening,
    run,
    two_linked_namespaces,
)

from troth.envoy import PORT_SETS
from troth.mesh import Endpoint, Protocol, Service, ServicePort
from troth.node import _netns
from troth.node._capture import capture, release
from troth.node._set_elements import SetElements
from troth.node._unserved import MOST_ENTRIES, TABLE, Unserved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.conftest import InNode

V4, V6 = "10.96.0.7", "fd74:726f::7"
ENDPOINTS = Endpoint("10.1.0.2", 8080), Endpoint("fd01::2", 8080)
REFUSED = errno.errorcode[errno.ECONNREFUSED]
PORTS = PORT_SETS[0]


def service(*endpoints: Endpoint, protocol: Protocol = Protocol.TCP, **more: Any) -> Service:
    port = ServicePort(number=80, protocol=protocol, endpoints=endpoints)
    values = {"name": "web", "cluster_ips": (V4, V6), "ports": (port,), **more}
    return Service(namespace="shop", **values)


def many(count: int) -> dict[str, Service]:
    """Services with two entries each."""
    return {
        f"shop/{n}": service(ENDPOINTS[0], name=f"{n}", cluster_ips=(f"10.97.{n >> 8}.{n & 255}",))
        for n in range(count)
    }


def call(netns: Path, address: str, port: int = 80) -> str:
    """What came of a connection: nothing if Envoy has accepted it."""
    with _netns.socket_in(netns, family_of(address)) as client:
        client.settimeout(5)
        result = client.connect_ex((address, port))
        return errno.errorcode[result] if result else ""


@contextlib.asynccontextmanager
async def captured(directory: Path, unserved: Unserved) -> AsyncIterator[Path]:
    """A captured pod, where something stands for Envoy, and its sets are kept."""
    pod, _ = await asyncio.to_thread(two_linked_namespaces, directory)
    for gateway in (OTHER, OTHER_V6):
        run(*_netns.enter_command(pod), "ip", "route", "add", "default", "via", gateway)
    await capture(pod)
    with listening(pod, "127.0.0.1", PORTS.outbound), listening(pod, "::1", PORTS.outbound):
        await unserved.follow({"pod": pod})
        yield pod
    unserved.close()


async def what_has_no_endpoint_of_its_family_is_refused(directory: Path) -> None:
    unserved = Unserved()
    async with captured(directory, unserved) as pod:
        for endpoints in ((), ENDPOINTS, ENDPOINTS[:1], ENDPOINTS[1:], ENDPOINTS, ()):
            unserved.update({"shop/web": service(*endpoints)})
            for virtual, endpoint in zip((V4, V6), ENDPOINTS, strict=True):
                assert call(pod, virtual) == ("" if endpoint in endpoints else REFUSED)


async def a_port_that_the_service_does_not_have_is_refused(directory: Path) -> None:
    unserved = Unserved()
    async with captured(directory, unserved) as pod:
        for virtual in (V4, V6):
            unserved.update({"shop/web": service(*ENDPOINTS)})
            assert call(pod, virtual, 81) == REFUSED
            unserved.update({"shop/web": service(*ENDPOINTS, protocol=Protocol.UDP)})
            assert call(pod, virtual) == REFUSED


async def what_is_not_known_is_not_refused(directory: Path) -> None:
    unserved = Unserved()
    async with captured(directory, unserved) as pod:
        others: dict[str, Any] = {
            "load_balancer_ips": ("198.51.100.8",),
            "external_ips": ("198.51.100.7",),
        }
        unserved.update({"shop/web": service(**others)})
        for address in ("198.51.100.8", "198.51.100.7", "10.96.0.8", "fd74:726f::8"):
            assert call(pod, address) == ""
        unserved.update({})
        for address in (V4, V6):
            assert call(pod, address) == ""


async def an_address_that_goes_from_one_service_to_another_is_served(directory: Path) -> None:
    unserved = Unserved()
    async with captured(directory, unserved) as pod:
        old, new = service(), service(*ENDPOINTS)
        for services in ({"a": old}, {"a": old, "b": new}, {"b": new}, {"a": new}):
            unserved.update(services)
            for address in (V4, V6):
                assert call(pod, address) == ("" if new in services.values() else REFUSED)


async def an_open_connection_outlives_the_last_endpoint(directory: Path) -> None:
    loop = asyncio.get_running_loop()
    unserved = Unserved()
    pod, _ = await asyncio.to_thread(two_linked_namespaces, directory)
    for gateway in (OTHER, OTHER_V6):
        run(*_netns.enter_command(pod), "ip", "route", "add", "default", "via", gateway)
    await capture(pod)
    await unserved.follow({"pod": pod})
    for virtual, loopback in ((V4, "127.0.0.1"), (V6, "::1")):
        unserved.update({"shop/web": service(*ENDPOINTS)})
        with (
            listening(pod, loopback, PORTS.outbound) as envoy,
            _netns.socket_in(pod, family_of(virtual)) as client,
        ):
            client.connect((virtual, 80))
            connection, _ = envoy.accept()
            unserved.update({"shop/web": service()})
            assert call(pod, virtual) == REFUSED
            for each in (client, connection):
                each.setblocking(False)
            for sender, receiver in ((client, connection), (connection, client)):
                await loop.sock_sendall(sender, b"still here")
                async with asyncio.timeout(10):
                    assert await loop.sock_recv(receiver, 100) == b"still here"
            connection.close()
    unserved.close()


async def with_too_many_services_nothing_is_refused(directory: Path) -> None:
    unserved = Unserved(most=10)
    async with captured(directory, unserved) as pod:
        nobodys = {"shop/web": service(cluster_ips=(V4,))}
        for count, refused in ((4, REFUSED), (5, ""), (6, ""), (4, REFUSED)):
            unserved.update(many(count) | nobodys)
            assert call(pod, V4) == refused
            assert call(pod, "10.97.0.0") == ""
            assert call(pod, "10.97.0.3") == ""


async def the_most_services_that_there_may_be_are_known_to_the_kernel(directory: Path) -> None:
    unserved = Unserved()
    async with captured(directory, unserved) as pod:
        services = many(MOST_ENTRIES // 2)
        for step in (services, {}, services):
            unserved.update(step)
            with SetElements(pod, TABLE) as sets:
                assert len(sets.keys("virtual_ip")) == len(step)
                assert len(sets.keys("served_ip")) == len(step)


async def a_successor_brings_up_to_date_what_it_finds(directory: Path) -> None:
    former, successor = Unserved(), Unserved()
    async with captured(directory, former) as pod:
        gone = service(name="gone", cluster_ips=("10.96.0.8",))
        former.update({"shop/web": service(), "shop/gone": gone})
        former.close()
        former.update({})  # it is no longer its business
        assert call(pod, V4) == REFUSED
        successor.update({"shop/web": service(*ENDPOINTS)})
        await capture(pod, PORTS)
        await successor.follow({"pod": pod})
        for address in (V4, V6, "10.96.0.8"):
            assert call(pod, address) == ""
            assert call(pod, address, 81) == ("" if address == "10.96.0.8" else REFUSED)
        successor.close()


async def capture_again_keeps_what_is_refused_and_release_ends_it(directory: Path) -> None:
    unserved = Unserved()
    async with captured(directory, unserved) as pod:
        unserved.update({"shop/web": service()})
        for _ in range(2):
            assert call(pod, V4) == REFUSED
            await capture(pod)
        await release(pod)
        tables = run(*_netns.enter_command(pod), "nft", "list", "tables")
        assert TABLE not in tables
        unserved.update({"shop/web": service(*ENDPOINTS)})  # no error


async def a_pod_that_lost_its_table_gets_it_back_whole(directory: Path) -> None:
    unserved = Unserved()
    async with captured(directory, unserved) as pod:
        unserved.update({"shop/web": service()})
        run(*_netns.enter_command(pod), "nft", "delete", "table", "inet", TABLE)
        unserved.update({"shop/web": service(*ENDPOINTS)})
        await capture(pod)
        await unserved.follow({"pod": pod})
        assert call(pod, V4) == ""
        assert call(pod, V4, 81) == REFUSED


SCENARIOS = [
    what_has_no_endpoint_of_its_family_is_refused,
    a_port_that_the_service_does_not_have_is_refused,
    what_is_not_known_is_not_refused,
    an_address_that_goes_from_one_service_to_another_is_served,
    an_open_connection_outlives_the_last_endpoint,
    with_too_many_services_nothing_is_refused,
    the_most_services_that_there_may_be_are_known_to_the_kernel,
    a_successor_brings_up_to_date_what_it_finds,
    capture_again_keeps_what_is_refused_and_release_ends_it,
    a_pod_that_lost_its_table_gets_it_back_whole,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_in_a_pod(scenario: Callable[..., Any], in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(scenario, tmp_path)
