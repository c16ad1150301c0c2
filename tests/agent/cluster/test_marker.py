"""How pods' marks are written, against a client that does as the test says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import pytest
from tests.agent.cluster.loops import quiet, running

from troth.agent.cluster import marker as _marker
from troth.agent.cluster.marker import Mark, Marker
from troth.kube.errors import refusal, translated
from troth.mesh.model import ALL_PORTS, Pod, Ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from troth.errors import TrothError

API = "the API server"
OUT_OF_REACH = translated(API, httpx2.ConnectError("refused"), "patch Pod shop/web")
AT = ("10.244.1.5", "fd00::5")
UNMARKED = Pod(uid="uid-1", namespace="shop", name="web", addresses=AT)
MARKED = msgspec.structs.replace(UNMARKED, captured=True, captured_at=AT)
CAPTURED, NOT = Mark(AT), Mark(None)


class Client:
    """Stands for the API server."""

    def __init__(self) -> None:
        self.answers: list[Exception | None] = []
        self.patches: list[tuple[str, Any]] = []
        self.asked = asyncio.Event()

    async def patch(self, _kind: Any, name: str, change: Any, namespace: str) -> None:
        self.patches.append((f"{namespace}/{name}", change["metadata"]))
        self.asked.set()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer

    async def asked_times(self, count: int) -> None:
        while len(self.patches) < count:
            self.asked.clear()
            await self.asked.wait()


def refused(code: int, message: str = "pods are forbidden", field: str = "") -> TrothError:
    status: dict[str, Any] = {"kind": "Status", "code": code, "message": message}
    if field:
        status["details"] = {"causes": [{"reason": "FieldValueInvalid", "field": field}]}
    response = httpx2.Response(code, json=status)
    return refusal(API, "patch Pod shop/web", response, grant="")


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
async def marker(client: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Marker]:
    monkeypatch.setattr(_marker, "_FIRST_RETRY_SECONDS", 0.001)
    marker = Marker(client)  # type: ignore[arg-type]  # all that it uses of one
    async with running(marker.run()):
        yield marker


async def test_a_captured_pod_is_marked_by_a_patch_that_names_its_uid(
    client: Client, marker: Marker
) -> None:
    marker.want([(UNMARKED, CAPTURED)])
    await client.asked_times(1)
    annotations = {"troth.dev/captured": "true", "troth.dev/captured-at": "10.244.1.5,fd00::5"}
    assert client.patches == [("shop/web", {"uid": "uid-1", "annotations": annotations})]


async def test_a_mark_is_taken_away_by_removing_the_annotation(
    client: Client, marker: Marker
) -> None:
    marker.want([(MARKED, NOT)])
    await client.asked_times(1)
    assert client.patches[0][1]["annotations"] == {
        "troth.dev/captured": None,
        "troth.dev/captured-at": None,
    }


@pytest.mark.parametrize("at", [("10.244.1.4",), ()], ids=["other", "none"])
async def test_a_mark_at_other_addresses_is_written_again(
    client: Client, marker: Marker, at: tuple[str, ...]
) -> None:
    marker.want([(msgspec.structs.replace(MARKED, captured_at=at), CAPTURED)])
    await client.asked_times(1)
    assert client.patches[0][1]["annotations"]["troth.dev/captured-at"] == "10.244.1.5,fd00::5"


async def test_what_is_right_is_not_written(client: Client, marker: Marker) -> None:
    marker.want([(MARKED, CAPTURED), (UNMARKED, NOT)])
    await quiet()
    assert client.patches == []


async def test_a_mark_is_written_once_until_the_api_server_had_time_to_repeat_it(
    client: Client, marker: Marker
) -> None:
    for _ in range(3):
        marker.want([(UNMARKED, CAPTURED)])
        await quiet()
    assert len(client.patches) == 1


async def test_a_mark_that_somebody_takes_away_is_written_again(
    client: Client, marker: Marker
) -> None:
    for pod in (UNMARKED, MARKED, UNMARKED):
        marker.want([(pod, CAPTURED)])
        await quiet()
    assert len(client.patches) == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refused(403), id="forbidden"),
        pytest.param(refused(409, "the object has been modified"), id="a conflict"),
        pytest.param(refused(422, field="metadata.annotations"), id="invalid"),
        pytest.param(refused(500), id="an error of the server"),
        pytest.param(OUT_OF_REACH, id="out of reach"),
    ],
)
async def test_what_fails_is_told_and_tried_again(
    client: Client, marker: Marker, answer: Exception
) -> None:
    client.answers = [answer, answer]
    marker.want([(UNMARKED, CAPTURED)])
    await client.asked_times(2)
    await quiet()
    assert "shop/web" in marker.trouble
    await client.asked_times(3)
    await quiet()
    assert marker.trouble == ""


@pytest.mark.parametrize("code", [403, 422])
async def test_what_a_webhook_refuses_is_told_as_such_whatever_its_code(
    client: Client, marker: Marker, code: int
) -> None:
    client.answers = [refused(code, 'admission webhook "guard.example" denied the request: no')]
    marker.want([(UNMARKED, CAPTURED)])
    await client.asked_times(1)
    await quiet()
    why = marker.troubles["uid-1"]
    assert "guard.example" in why
    assert "the annotations troth.dev/captured, troth.dev/captured-at, troth.dev/plaintext" in why
    assert "permission" not in why


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refused(404), id="gone"),
        pytest.param(refused(409, "Precondition failed: UID in precondition: a"), id="conflict"),
        pytest.param(refused(422, field="metadata.uid"), id="its UID is immutable"),
    ],
)
async def test_another_pod_of_the_same_name_is_left_alone(
    client: Client, marker: Marker, answer: Exception
) -> None:
    client.answers = [answer]
    marker.want([(UNMARKED, CAPTURED)])
    await client.asked_times(1)
    await quiet()
    assert (marker.trouble, len(client.patches)) == ("", 1)


async def test_where_a_pod_takes_plaintext_is_an_annotation_too(
    client: Client, marker: Marker
) -> None:
    only = Ports(exceptions=frozenset({8080, 9090}))
    marker.want([(MARKED, Mark(AT, only))])
    await client.asked_times(1)
    assert client.patches[0][1]["annotations"] == {"troth.dev/plaintext": "8080,9090"}
    # That hasn't been repeated yet when it is to be taken back.
    captured = msgspec.structs.replace(MARKED, plaintext=ALL_PORTS)
    marker.want([(captured, CAPTURED)])
    await client.asked_times(2)
    assert client.patches[1][1]["annotations"] == {"troth.dev/plaintext": None}
