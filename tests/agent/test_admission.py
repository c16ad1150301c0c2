"""Strangers and peers at a pod's tunnel, told apart in namespaces of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest
from tests.agent.test_capture import (
    OTHER,
    OTHER_V6,
    POD,
    POD_V6,
    family_of,
    listening,
    reaches,
    rules,
    two_linked_namespaces,
)
from tests.explain.seen import world
from tests.samples import NOON, at_noon

from troth.agent.admission import TABLE, AdmissionLimits, TunnelAdmission
from troth.agent.capture import capture, release
from troth.agent.netns import enter_command, socket_in
from troth.agent.set_elements import PodSets, SetElements
from troth.envoy.limits import Limits
from troth.mesh.ports import TUNNEL_PORT
from troth.traffic.connection import Connection, ConnectionReport, Outcome, Party, Reason, Side
from troth.traffic.observe import Observer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from tests.conftest import InNode

LIMITS = AdmissionLimits(burst=4, total_burst=100, total_rate=100)
WAYS = ((POD, OTHER), (POD_V6, OTHER_V6))
SOON = 0.3
"""Seconds, less than until a SYN that was dropped is sent again."""


def come(netns: Path, address: str, count: int, *, source: str = "") -> int:
    """How many of so many connections at once reach the tunnel."""
    reached = 0
    for _ in range(count):
        with socket_in(netns, family_of(address)) as client:
            client.settimeout(SOON)
            if source:
                client.bind((source, 0))
            reached += client.connect_ex((address, TUNNEL_PORT)) == 0
    return reached


@contextlib.asynccontextmanager
async def following(pods: Mapping[str, Path]) -> AsyncIterator[TunnelAdmission]:
    """Strangers told from peers in pods with these network namespaces, by UID."""
    strangers = TunnelAdmission(LIMITS)
    with PodSets() as keeper:
        async with keeper.of(pods) as sets:
            await strangers.follow(sets)
        yield strangers


@contextlib.contextmanager
def allowing(burst: int, rate: float) -> Iterator[Callable[[], float]]:
    """The most connections that a limit lets through while the block runs, however long it does."""
    began = time.monotonic()
    ended = began
    yield lambda: burst + 1 + rate * (ended - began)
    ended = time.monotonic()


def event(source: str, reason: Reason = Reason.NONE) -> ConnectionReport:
    """What became of a connection to the tunnel of pod ``a``."""
    proved = reason is Reason.NONE
    connection = Connection(
        time=NOON,
        outcome=Outcome.ACCEPTED if proved else Outcome.REFUSED,
        reason=reason,
        side=Side.SERVER,
        source=Party(address=source, port=40_000),
        destination=Party(address=POD, port=8080),
        peer="spiffe://cluster.local/ns/finance/sa/web" if proved else None,
    )
    return ConnectionReport(pod="a", connection=connection)


def dropped(pod: str, address: str, count: int, words: str = "by itself") -> ConnectionReport:
    return ConnectionReport.of_count(
        pod,
        time=NOON,
        count=count,
        outcome=Outcome.REFUSED,
        reason=Reason.TOO_MANY_UNPROVED,
        side=Side.SERVER,
        detail=words,
        other=address,
        port=TUNNEL_PORT,
    )


def a_stranger_gets_no_more_than_its_part(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))
    for mine, _ in WAYS:
        with listening(pod, mine, TUNNEL_PORT):
            assert LIMITS.burst <= come(other, mine, 8) < 8


def all_strangers_together_get_no_more_than_theirs(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    few = AdmissionLimits(burst=4, total_burst=6, total_rate=1)
    asyncio.run(capture(pod, admission=few))
    with listening(pod, POD, TUNNEL_PORT):
        enter = [*enter_command(other), "ip", "addr", "add", "10.9.9.3/24", "dev", "eth9"]
        asyncio.run(succeed(*enter))
        with allowing(6, few.total_rate) as most:
            got = come(other, POD, 4) + come(other, POD, 4, source="10.9.9.3")
        assert 6 <= got <= most()


def an_ipv6_network_gets_no_more_than_half_of_that(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    few = AdmissionLimits(burst=4, total_burst=12, total_rate=2)
    asyncio.run(capture(pod, admission=few))
    with listening(pod, POD_V6, TUNNEL_PORT):
        sources = [f"fd99::{number}" for number in range(3, 9)]
        for source in sources:
            enter = [*enter_command(other), "ip", "addr", "add", f"{source}/64"]
            asyncio.run(succeed(*enter, "dev", "eth9", "nodad"))
        with allowing(6, few.total_rate / 2) as most:
            got = sum(come(other, POD_V6, 4, source=source) for source in sources)
        assert 6 <= got <= most()


def the_apps_ports_have_no_such_limit(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))
    with listening(pod, POD, 15006), listening(pod, POD, 80):
        assert all(reaches(other, POD, 80, seconds=SOON) for _ in range(20))


def who_has_proved_an_identity_has_no_such_limit(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))

    async def scene(mine: str, theirs: str) -> None:
        async with following({"a": pod}) as strangers:
            strangers.hear(event(theirs))
            assert await asyncio.to_thread(come, other, mine, 50) == 50
            for change in (capture, capture):  # also by the rules of the next agent
                await change(pod, admission=LIMITS)
                assert await asyncio.to_thread(come, other, mine, 20) == 20
        async with following({"a": pod}):
            assert await asyncio.to_thread(come, other, mine, 20) == 20

    for mine, theirs in WAYS:
        with listening(pod, mine, TUNNEL_PORT):
            asyncio.run(scene(mine, theirs))


def who_proves_nothing_any_more_is_a_stranger_again(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))

    async def scene() -> None:
        async with following({"a": pod}) as strangers:
            strangers.hear(event(OTHER))
            for _ in range(LIMITS.burst):
                strangers.hear(event(OTHER, Reason.NO_HANDSHAKE))
            assert await asyncio.to_thread(come, other, POD, 8) == 8
            strangers.hear(event(OTHER, Reason.NO_HANDSHAKE))
            strangers.hear(event(OTHER))  # which doesn't help at once
            assert await asyncio.to_thread(come, other, POD, 8) < 8

    with listening(pod, POD, TUNNEL_PORT):
        asyncio.run(scene())


def what_is_dropped_of_strangers_is_told_and_of_newcomers_is_not(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))

    async def scene(mine: str, theirs: str) -> None:
        async with following({"a": pod}) as strangers:
            reached = await asyncio.to_thread(come, other, mine, 10)
            assert await strangers.news({"a"}) == []
            told = await strangers.news({"a"})
            assert at_noon(told) == [dropped("a", theirs, 10 - reached)]
            assert await strangers.news({"a"}) == []
            assert await asyncio.to_thread(come, other, mine, 10) < 10
            assert await strangers.news({"a"}) == []
            strangers.hear(event(theirs))
            assert await strangers.news({"a"}) == []

    for mine, theirs in WAYS:
        with listening(pod, mine, TUNNEL_PORT):
            asyncio.run(scene(mine, theirs))


def a_released_pod_knows_no_strangers(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(release(pod))
    asyncio.run(capture(pod, admission=LIMITS))
    with listening(pod, POD, TUNNEL_PORT):
        assert come(other, POD, 20) < 20
        asyncio.run(release(pod))
        assert come(other, POD, 20) == 20


def a_pod_that_comes_back_knows_its_peers(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))

    async def scene(mine: str, theirs: str) -> None:
        async with following({"a": pod}) as strangers:
            strangers.hear(event(theirs))
            await release(pod)
            await strangers.follow({})
            await capture(pod, admission=LIMITS)
            assert await asyncio.to_thread(come, other, mine, 20) == 20

    for mine, theirs in WAYS:
        with listening(pod, mine, TUNNEL_PORT):
            asyncio.run(scene(mine, theirs))


def a_pod_that_joins_knows_the_peers_of_another(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))
    asyncio.run(capture(other, admission=LIMITS))
    asyncio.run(release(other))  # what leaves it is to come to the pod directly

    async def scene() -> None:
        strangers = TunnelAdmission(LIMITS)
        with PodSets() as keeper:
            async with keeper.of({"a": other}) as sets:
                await strangers.follow(sets)
            for _, theirs in WAYS:
                strangers.hear(event(theirs))
            strangers.hear(event("10.9.9.77"))
            for _ in range(LIMITS.burst + 1):
                strangers.hear(event("10.9.9.77", Reason.NO_HANDSHAKE))
            async with keeper.of({"a": other, "b": pod}) as sets:
                await strangers.follow(sets)
            for mine, _ in WAYS:
                assert await asyncio.to_thread(come, other, mine, 20) == 20
            assert "10.9.9.77" not in str(rules(pod))

    with listening(pod, POD, TUNNEL_PORT), listening(pod, POD_V6, TUNNEL_PORT):
        asyncio.run(scene())


def a_peer_of_an_earlier_agents_that_proves_nothing_is_a_stranger_again(directory: Path) -> None:
    pod, other = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))

    async def scene() -> None:
        async with following({"a": pod}) as earlier:
            earlier.hear(event(OTHER))
        async with following({"a": pod}) as strangers:
            for _ in range(LIMITS.burst):
                strangers.hear(event(OTHER, Reason.NO_HANDSHAKE))
            assert await asyncio.to_thread(come, other, POD, 8) == 8
            strangers.hear(event(OTHER, Reason.NO_HANDSHAKE))
            assert await asyncio.to_thread(come, other, POD, 8) < 8

    with listening(pod, POD, TUNNEL_PORT):
        asyncio.run(scene())


def sets_are_read_and_changed(directory: Path) -> None:
    pod, _ = two_linked_namespaces(directory)
    asyncio.run(capture(pod, admission=LIMITS))
    keys = [socket.inet_aton(f"10.0.{number // 200}.{number % 200}") for number in range(3000)]
    with SetElements(pod) as sets:
        sets.add(TABLE, "peers_ip", keys)
        sets.add(TABLE, "peers_ip", keys)
        sets.remove(TABLE, "peers_ip", keys[0])
        sets.remove(TABLE, "peers_ip", keys[0])
        with pytest.raises(FileNotFoundError):
            sets.add(TABLE, "nobody", keys)
        with pytest.raises(FileNotFoundError):
            sets.counts(TABLE, ["nobody"])
        assert sets.counts(TABLE, ["dropped_alone_ip"]) == {}
    assert str(rules(pod)).count("10.0.") == len(keys) - 1


async def succeed(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    "scene",
    [
        a_stranger_gets_no_more_than_its_part,
        all_strangers_together_get_no_more_than_theirs,
        an_ipv6_network_gets_no_more_than_half_of_that,
        the_apps_ports_have_no_such_limit,
        who_has_proved_an_identity_has_no_such_limit,
        who_proves_nothing_any_more_is_a_stranger_again,
        what_is_dropped_of_strangers_is_told_and_of_newcomers_is_not,
        a_released_pod_knows_no_strangers,
        a_pod_that_comes_back_knows_its_peers,
        a_pod_that_joins_knows_the_peers_of_another,
        a_peer_of_an_earlier_agents_that_proves_nothing_is_a_stranger_again,
        sets_are_read_and_changed,
    ],
    ids=lambda scene: scene.__name__.replace("_", " "),
)
def test_strangers_in_the_kernel(
    scene: Callable[[Path], None], in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(scene, tmp_path)


@pytest.mark.parametrize("descriptors", [256, 1024, 4096, 20_000, 65_536, 1_048_576])
def test_half_of_a_pods_places_are_left_to_peers(descriptors: int) -> None:
    limits = Limits.of(descriptors=descriptors)
    strangers = AdmissionLimits.of(limits)
    kept = max(limits.pod_connections // 2, limits.pod_connections - 16)
    assert strangers.total_burst + 15 * strangers.total_rate <= max(kept, 23)


@pytest.mark.parametrize("descriptors", [40_000, 65_536, 1_048_576])
def test_one_address_that_goes_to_all_pods_takes_less_than_all_places(descriptors: int) -> None:
    limits = Limits.of(descriptors=descriptors)
    assert 110 * (AdmissionLimits.of(limits).burst + 15) < 0.6 * limits.connections


@pytest.mark.parametrize("words", ["by itself", "together with others"])
def test_what_was_dropped_is_one_event_with_both_ends(words: str) -> None:
    seen = Observer(world()).named(dropped("finance/payments", "10.0.1.1", 7, words))
    assert seen is not None
    assert (seen.outcome, seen.reason) == (Outcome.REFUSED, Reason.TOO_MANY_UNPROVED)
    assert (seen.count, seen.detail, seen.side) == (7, words, Side.SERVER)
    assert seen.source == Party(
        address="10.0.1.1", port=0, pod="finance/web-0", workload="finance/web"
    )
    assert (seen.destination.workload, seen.destination.port) == ("finance/payments", TUNNEL_PORT)


def test_of_a_pod_that_is_gone_no_drops_are_told() -> None:
    assert Observer(world()).named(dropped("finance/gone", "10.0.1.1", 7)) is None
