"""Which pods are evicted and how often, against a client that does as the test says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from tests.agent.cluster.loops import quiet, running

from troth.agent.cluster import eviction as _eviction
from troth.agent.cluster.eviction import Evictor
from troth.kube.errors import refusal
from troth.mesh.model import Pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from troth.errors import TrothError

LONG = 3600.0


def pod(name: str, *, terminating: bool = False) -> Pod:
    return Pod(uid=f"uid-{name}", namespace="shop", name=name, terminating=terminating)


def refused(code: int) -> TrothError:
    response = httpx2.Response(code, json={"code": code, "message": "no"})
    return refusal("the API server", "evict", response, grant="have it given")


class Server:
    """Stands for the API server, and for the Events on it."""

    def __init__(self) -> None:
        self.answers: dict[str, Exception] = {}
        self.evictions: list[tuple[str, str]] = []
        self.events: list[tuple[str, str]] = []
        self.changed = asyncio.Event()

    async def create(self, _: Any, made: Any, namespace: str, name: str, part: str) -> None:
        assert (namespace, part, made["kind"]) == ("shop", "eviction", "Eviction")
        self.evictions.append((name, made["deleteOptions"]["preconditions"]["uid"]))
        self.changed.set()
        if name in self.answers:
            raise self.answers[name]

    async def record(self, about: Any, _: Any, reason: str, message: str) -> None:
        self.events.append((about.name, f"{reason}: {message}"))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def evictor(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Evictor]:
    monkeypatch.setattr(_eviction, "_FIRST_PAUSE_SECONDS", LONG)
    monkeypatch.setattr(_eviction, "_GRACE_SECONDS", 0.0)
    evictor = Evictor(server, server)  # type: ignore[arg-type]  # all that it uses of them
    async with running(evictor.run()):
        yield evictor


async def test_one_pod_is_evicted_by_its_uid_and_told_of_and_the_next_one_has_to_wait(
    server: Server, evictor: Evictor
) -> None:
    evictor.want([(pod("a"), "no certificate"), (pod("b"), "no certificate")])
    await server.until(lambda: bool(server.events))
    await quiet()
    assert server.evictions == [("a", "uid-a")]
    told = "Evicted: is evicted because it is not captured: no certificate"
    assert server.events == [("a", told)]


async def test_a_pod_that_ends_already_is_not_evicted(server: Server, evictor: Evictor) -> None:
    evictor.want([(pod("a", terminating=True), "no certificate")])
    await quiet()
    assert server.evictions == []


async def test_a_pod_that_may_not_be_evicted_now_keeps_no_other_from_it(
    server: Server, evictor: Evictor
) -> None:
    server.answers = {"a": refused(429)}
    evictor.want([(pod("a"), "why"), (pod("b"), "why")])
    await server.until(lambda: len(server.events) == 2)
    assert [name for name, _ in server.evictions] == ["a", "b"]
    assert server.events[0][1].startswith("EvictionRefused: is not captured (why), and may not")


async def test_what_the_api_server_forbids_is_told_with_the_permission_that_is_missing(
    server: Server, evictor: Evictor
) -> None:
    server.answers = {"a": refused(403)}
    evictor.want([(pod("a"), "why")])
    await server.until(lambda: bool(server.events))
    evictor.want([])
    assert "have it given" in server.events[0][1]


@pytest.mark.parametrize("code", [404, 409])
async def test_a_pod_that_is_gone_is_no_trouble(
    server: Server, evictor: Evictor, code: int
) -> None:
    server.answers = {"a": refused(code)}
    evictor.want([(pod("a"), "why")])
    await server.until(lambda: bool(server.evictions))
    evictor.want([])
    await quiet()
    assert server.events == []
