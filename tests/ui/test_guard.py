"""Whose requests the page answers."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, cast

import msgspec
import pytest
from tests.ui.samples import audit, pair, why

from troth.errors import PeerError
from troth.ui.guard import Guard
from troth.ui.server import Feed, _changes, application

HOST = "127.0.0.1:8000"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cookie(self) -> str:
        return self.headers["set-cookie"].partition(";")[0]


class FakeMesh:
    """A mesh of two workloads."""

    def audit(self, *, seconds: float) -> object:
        if seconds == 60:
            raise PeerError("troth", "the mesh is gone", "")
        return audit(pair("shop/web", "shop/db", tunnel=1), workloads=("shop/web", "shop/db"))

    def why(self, _: object, *, most: int) -> object:
        assert most
        return why()


@pytest.fixture
def guard() -> Guard:
    return Guard(application(Feed(cast("Any", FakeMesh()), every=1.0)), 8000)


async def ask(guard: Guard, path: str, *, method: str = "GET", **headers: str) -> Answer:
    given = {"host": HOST} | {name.lower(): value for name, value in headers.items()}
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "http_version": "1.1",
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    await guard(scope, receive, cast("Any", send))
    start, *rest = sent
    return Answer(
        start["status"],
        {name.decode().lower(): value.decode() for name, value in start["headers"]},
        b"".join(each.get("body", b"") for each in rest),
    )


async def session(guard: Guard) -> str:
    """The cookie of a session."""
    return (await ask(guard, f"/?token={guard.token}")).cookie


@pytest.mark.parametrize("path", ["/", "/api/graph", "/static/page.js", "/?token=guess"])
async def test_who_was_not_given_the_address_gets_nothing(guard: Guard, path: str) -> None:
    answer = await ask(guard, path)
    assert (answer.status, "troth ui" in answer.body.decode()) == (403, True)


async def test_two_pages_in_one_browser_do_not_end_each_others_sessions(guard: Guard) -> None:
    other = Guard(application(Feed(cast("Any", FakeMesh()), every=1.0)), 8001)
    there = await ask(other, f"/?token={other.token}", host="127.0.0.1:8001")
    names = {each.partition("=")[0] for each in (await session(guard), there.cookie)}
    assert len(names) == 2


async def test_the_address_opens_the_page_once(guard: Guard) -> None:
    token = guard.token
    answer = await ask(guard, f"/?token={token}")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert (await ask(guard, "/", cookie=answer.cookie)).status == 200
    assert (await ask(guard, f"/?token={token}")).status == 403


async def test_the_token_is_good_for_the_front_page_alone(guard: Guard) -> None:
    assert (await ask(guard, f"/api/graph?token={guard.token}")).status == 403


@pytest.mark.parametrize("host", ["troth.example:8000", "127.0.0.1:80", "127.0.0.1", ""])
async def test_a_name_that_was_rebound_to_this_machine_is_refused(guard: Guard, host: str) -> None:
    assert (await ask(guard, "/", host=host, cookie=await session(guard))).status == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:9000", "null"])
async def test_another_pages_requests_are_refused(guard: Guard, origin: str) -> None:
    assert (
        await ask(guard, "/api/graph", origin=origin, cookie=await session(guard))
    ).status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_the_page_only_looks(guard: Guard, method: str) -> None:
    assert (await ask(guard, "/", method=method, cookie=await session(guard))).status == 405


@pytest.mark.parametrize("path", ["/", "/api/graph", "/static/style.css", "/nowhere"])
async def test_every_answer_says_what_the_page_may_load_and_that_none_is_kept(
    guard: Guard, path: str
) -> None:
    for cookie in ("", await session(guard)):
        headers = (await ask(guard, path, cookie=cookie)).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/static/../guard.py", "/static/%2e%2e/guard.py", "/static//etc/passwd"]
)
async def test_no_other_file_is_served(guard: Guard, path: str) -> None:
    assert (await ask(guard, path, cookie=await session(guard))).status == 404


async def test_the_graph_is_what_the_mesh_tells(guard: Guard) -> None:
    answer = await ask(guard, "/api/graph", cookie=await session(guard))
    graph = msgspec.json.decode(answer.body)
    assert graph["schema"] == "troth/graph/v1"
    assert [(edge["source"], edge["passage"]) for edge in graph["edges"]] == [
        ("shop/web", "tunnel")
    ]


async def test_a_mesh_that_is_gone_is_told_with_its_reason(guard: Guard) -> None:
    answer = await ask(guard, "/api/graph?seconds=60", cookie=await session(guard))
    assert (answer.status, msgspec.json.decode(answer.body)) == (
        502,
        {"error": "the mesh is gone"},
    )


@pytest.mark.parametrize("seconds", ["nan", "-1", "1e9", "x"])
async def test_a_time_that_is_none_is_refused(guard: Guard, seconds: str) -> None:
    answer = await ask(guard, f"/api/graph?seconds={seconds}", cookie=await session(guard))
    assert answer.status == 400
    assert "seconds: is" in msgspec.json.decode(answer.body)["error"]


async def test_a_page_too_many_is_told_so_and_does_not_wait() -> None:
    taken = asyncio.Semaphore(0)
    feed = Feed(cast("Any", FakeMesh()), every=1.0)
    told = [event async for event in _changes(feed, 3600.0, taken)]
    assert told == ['event: trouble\ndata: "too many pages are open"\n\n']
