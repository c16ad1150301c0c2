"""What nothing serves is refused ahead of Envoy, by the kernel in namespaces of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.agent.test_capture import (
    OTHER,
    OTHER_V6,
    POD,
    POD_V6,
    family_of,
    listening,
    run,
    two_linked_namespaces,
)
from tests.explain.seen import world
from tests.samples import NOON, at_noon

from troth.agent.capture import PROBE_SOURCE_V4, capture, release
from troth.agent.netns import enter_command, socket_in
from troth.agent.refusals import MOST_ENTRIES, TABLE, KernelRefusals
from troth.agent.set_elements import SetElements
from troth.mesh.model import Endpoint, Protocol, Service, ServicePort
from troth.mesh.ports import PORT_SETS
from troth.traffic.connection import ConnectionReport, Outcome, Reason, Side
from troth.traffic.observe import Observer

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
    with socket_in(netns, family_of(address)) as client:
        client.settimeout(5)
        result = client.connect_ex((address, port))
        return errno.errorcode[result] if result else ""


class Captured(NamedTuple):
    pod: Path
    other: Path
    sets: SetElements


@contextlib.asynccontextmanager
async def captured(directory: Path, unserved: KernelRefusals) -> AsyncIterator[Captured]:
    """A captured pod, where something stands for Envoy, and its sets are kept."""
    pod, other = await asyncio.to_thread(two_linked_namespaces, directory)
    for gateway in (OTHER, OTHER_V6):
        run(*enter_command(pod), "ip", "route", "add", "default", "via", gateway)
    await capture(pod)
    with (
        listening(pod, "127.0.0.1", PORTS.outbound),
        listening(pod, "::1", PORTS.outbound),
        SetElements(pod) as sets,
    ):
        await unserved.follow({"pod": sets})
        yield Captured(pod, other, sets)
        unserved.close()


async def what_has_no_endpoint_of_its_family_is_refused(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, *_):
        for endpoints in ((), ENDPOINTS, ENDPOINTS[:1], ENDPOINTS[1:], ENDPOINTS, ()):
            unserved.update({"shop/web": service(*endpoints)})
            for virtual, endpoint in zip((V4, V6), ENDPOINTS, strict=True):
                assert call(pod, virtual) == ("" if endpoint in endpoints else REFUSED)


async def a_port_that_the_service_does_not_have_is_refused(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, *_):
        for virtual in (V4, V6):
            unserved.update({"shop/web": service(*ENDPOINTS)})
            assert call(pod, virtual, 81) == REFUSED
            unserved.update({"shop/web": service(*ENDPOINTS, protocol=Protocol.UDP)})
            assert call(pod, virtual) == REFUSED


async def what_is_not_known_is_not_refused(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, *_):
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
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, *_):
        old, new = service(), service(*ENDPOINTS)
        for services in ({"a": old}, {"a": old, "b": new}, {"b": new}, {"a": new}):
            unserved.update(services)
            for address in (V4, V6):
                assert call(pod, address) == ("" if new in services.values() else REFUSED)


async def an_open_connection_outlives_the_last_endpoint(directory: Path) -> None:
    loop = asyncio.get_running_loop()
    unserved = KernelRefusals()
    pod, _ = await asyncio.to_thread(two_linked_namespaces, directory)
    for gateway in (OTHER, OTHER_V6):
        run(*enter_command(pod), "ip", "route", "add", "default", "via", gateway)
    await capture(pod)
    sets = SetElements(pod)
    await unserved.follow({"pod": sets})
    for virtual, loopback in ((V4, "127.0.0.1"), (V6, "::1")):
        unserved.update({"shop/web": service(*ENDPOINTS)})
        with (
            listening(pod, loopback, PORTS.outbound) as envoy,
            socket_in(pod, family_of(virtual)) as client,
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
    sets.close()


async def with_too_many_services_nothing_is_refused(directory: Path) -> None:
    unserved = KernelRefusals(most=10)
    async with captured(directory, unserved) as (pod, _, sets):
        nobodys = {"shop/web": service(cluster_ips=(V4,))}
        for count, refused in ((4, REFUSED), (5, ""), (6, ""), (4, REFUSED)):
            unserved.update(many(count) | nobodys)
            await unserved.follow({"pod": sets})
            assert call(pod, V4) == refused
            assert call(pod, "10.97.0.0") == ""
            assert call(pod, "10.97.0.3") == ""


async def the_most_services_that_there_may_be_are_known_to_the_kernel(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (*_, sets):
        services = many(MOST_ENTRIES // 2)
        for step in (services, {}, services):
            unserved.update(step)
            assert len(sets.keys(TABLE, "virtual_ip")) == len(step)
            assert len(sets.keys(TABLE, "served_ip")) == len(step)


async def a_successor_brings_up_to_date_what_it_finds(directory: Path) -> None:
    former, successor = KernelRefusals(), KernelRefusals()
    async with captured(directory, former) as (pod, _, sets):
        gone = service(name="gone", cluster_ips=("10.96.0.8",))
        former.update({"shop/web": service(), "shop/gone": gone})
        former.close()
        former.update({})  # it is no longer its business
        assert call(pod, V4) == REFUSED
        successor.update({"shop/web": service(*ENDPOINTS)})
        await capture(pod, PORTS)
        await successor.follow({"pod": sets})
        for address in (V4, V6, "10.96.0.8"):
            assert call(pod, address) == ""
            assert call(pod, address, 81) == ("" if address == "10.96.0.8" else REFUSED)
        successor.close()


async def capture_again_keeps_what_is_refused_and_release_ends_it(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, *_):
        unserved.update({"shop/web": service()})
        for _ in range(2):
            assert call(pod, V4) == REFUSED
            await capture(pod)
        await release(pod)
        tables = run(*enter_command(pod), "nft", "list", "tables")
        assert TABLE not in tables
        unserved.update({"shop/web": service(*ENDPOINTS)})  # no error


async def a_pod_that_lost_its_table_gets_it_back_whole(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, _, sets):
        unserved.update({"shop/web": service()})
        run(*enter_command(pod), "nft", "delete", "table", "inet", TABLE)
        unserved.update({"shop/web": service(*ENDPOINTS)})
        await capture(pod)
        await unserved.follow({"pod": sets})
        assert call(pod, V4) == ""
        assert call(pod, V4, 81) == REFUSED


def refused(
    address: str, port: int, reason: Reason, count: int, pod: str = "pod"
) -> ConnectionReport:
    return ConnectionReport.of_count(
        pod,
        time=NOON,
        count=count,
        outcome=Outcome.FAILED,
        reason=reason,
        side=Side.SERVER if reason is Reason.APP_UNREACHABLE else Side.CLIENT,
        other=address,
        port=port,
    )


def port_of(report: ConnectionReport) -> int:
    return report.connection.destination.port


async def what_is_refused_on_the_way_out_is_told_once_with_its_reason(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, *_):
        for virtual in (V4, V6):
            unserved.update({"shop/web": service()})
            for port in (80, 80, 81):
                assert call(pod, virtual, port) == REFUSED
            told = sorted(at_noon(await unserved.news()), key=port_of)
            assert told == [
                refused(virtual, 80, Reason.NO_ENDPOINTS, 2),
                refused(virtual, 81, Reason.NOT_CONFIGURED, 1),
            ]
            assert await unserved.news() == []
            assert call(pod, virtual) == REFUSED
            assert at_noon(await unserved.news()) == [refused(virtual, 80, Reason.NO_ENDPOINTS, 1)]
            unserved.update({"shop/web": service(*ENDPOINTS)})
            assert call(pod, virtual) == ""
            assert await unserved.news() == []


async def what_nobody_listens_for_is_told_once_with_its_client(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, other, _):
        for mine, theirs in ((POD, OTHER), (POD_V6, OTHER_V6)):
            with listening(pod, mine, 8080), listening(pod, mine, PORTS.inbound):
                assert call(other, mine, 8080) == ""
                for _ in range(3):
                    assert call(other, mine, 8081) == REFUSED
            told = refused(theirs, 8081, Reason.APP_UNREACHABLE, 3)
            assert at_noon(await unserved.news()) == [told]
            assert await unserved.news() == []


async def a_probe_that_finds_nobody_is_refused_and_not_told(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, other, _):
        await capture(pod, probes=True)
        for netns, *what in (
            (other, "addr", "add", f"{PROBE_SOURCE_V4}/32", "dev", "eth9"),
            (pod, "route", "add", PROBE_SOURCE_V4, "dev", "eth0"),
        ):
            run(*enter_command(netns), "ip", *what)
        with socket_in(other, family_of(POD)) as client:
            client.bind((PROBE_SOURCE_V4, 0))
            client.settimeout(5)
            assert client.connect_ex((POD, 8081)) == errno.ECONNREFUSED
        assert await unserved.news() == []


async def a_flood_of_refusals_is_told_in_part_and_the_others_are_refused(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, other, sets):
        unserved.update({"shop/web": service()})
        for port in range(1, 400):
            assert call(pod, V4, port) == REFUSED
            assert call(other, POD, port) == REFUSED
        counted = [len(sets.keys(TABLE, name)) for name in ("refused_ip", "unheard_ip")]
        assert max(counted) <= 256
        looks = [await unserved.news() for _ in range(2 * 256 // 32 + 1)]
        assert max(map(len, looks)) <= 32
        assert looks[-1] == []
        told = [(each.connection.side, port_of(each)) for look in looks for each in look]
        assert len(told) == len({*told}) == sum(counted)
        assert call(pod, V4, 1) == call(other, POD, 1) == REFUSED


async def what_an_earlier_agent_has_seen_is_not_told_again(directory: Path) -> None:
    unserved = KernelRefusals()
    async with captured(directory, unserved) as (pod, other, sets):
        unserved.update({"shop/web": service()})
        assert call(pod, V4) == call(other, POD) == REFUSED
        await capture(pod)
        successor = KernelRefusals()
        successor.update({"shop/web": service()})
        await successor.follow({"pod": sets})
        assert await successor.news() == []
        assert call(pod, V4) == REFUSED
        assert at_noon(await successor.news()) == [refused(V4, 80, Reason.NO_ENDPOINTS, 1)]
        successor.close()


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
    what_is_refused_on_the_way_out_is_told_once_with_its_reason,
    what_nobody_listens_for_is_told_once_with_its_client,
    a_probe_that_finds_nobody_is_refused_and_not_told,
    a_flood_of_refusals_is_told_in_part_and_the_others_are_refused,
    what_an_earlier_agent_has_seen_is_not_told_again,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_in_a_pod(scenario: Callable[..., Any], in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(scenario, tmp_path)


def test_what_is_refused_is_an_event_with_both_ends_as_they_are_known() -> None:
    observer = Observer(world())
    pods = {"finance/web": "10.0.1.1", "finance/payments": "10.0.1.2"}
    for reason, pod, ends in (
        (Reason.NO_ENDPOINTS, "finance/web", ("finance/web", None)),
        (Reason.APP_UNREACHABLE, "finance/payments", ("finance/web", "finance/payments")),
    ):
        other = pods["finance/web"] if reason is Reason.APP_UNREACHABLE else "10.96.0.9"
        connection = observer.named(refused(other, 80, reason, 7, pod))
        assert connection is not None
        assert (connection.outcome, connection.reason) == (Outcome.FAILED, reason)
        assert (connection.source.workload, connection.destination.workload) == ends
        assert connection.source.address == pods["finance/web"]
        assert (connection.destination.port, connection.count) == (80, 7)


def test_of_a_pod_that_is_gone_nothing_is_told() -> None:
    gone = refused(V4, 80, Reason.NO_ENDPOINTS, 7)
    assert Observer(world()).named(gone) is None
