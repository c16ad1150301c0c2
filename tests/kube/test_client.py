"""Single objects: what is sent for them, and what the answers mean."""

from __future__ import annotations

import json
from collections import deque
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.kube.fake_api import FakeApi, fake_api, thing

from troth.errors import PeerError
from troth.kube import wire
from troth.kube.client import ApiClient
from troth.kube.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    RefusedError,
)
from troth.kube.resource import ObjectKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.kube.fake_api import Exchange

LEASE = ObjectKind(kind="Lease", plural="leases", group="coordination.k8s.io", shape=wire.Headed)
LEASES = "/apis/coordination.k8s.io/v1/namespaces/shop/leases"
WEB = f"{LEASES}/web"


@asynccontextmanager
async def answering(
    path: str, status: int = 200, body: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[ApiClient, FakeApi]]:
    """An API server that gives one answer at ``path``, and a client of it."""

    async def answer(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(body or thing("web", "shop")).encode(), status=status)

    async with fake_api() as api, aclosing(ApiClient(api.config, field_manager="me")) as client:
        api.faults[path] = deque([answer])
        yield client, api


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (422, InvalidError),
        (500, RefusedError),
    ],
)
async def test_a_refusal_is_an_error_of_its_kind_that_names_the_object(
    code: int, error: type[Exception]
) -> None:
    async with answering(WEB, code, {"message": "no way"}) as (client, _):
        with pytest.raises(error, match=rf"to patch Lease shop/web.*{code} no way"):
            await client.patch(LEASE, "web", {"spec": {}}, "shop")


async def test_a_missing_permission_is_told_with_the_rule_that_gives_it() -> None:
    async with answering(f"{WEB}/status", 403) as (client, _):
        with pytest.raises(ForbiddenError) as raised:
            await client.patch(LEASE, "web", {}, "shop", part="status")
    assert raised.value.remedy == (
        "have it given by RBAC: apiGroups ['coordination.k8s.io'], resources ['leases/status'], "
        "verbs ['patch']"
    )


async def test_nothing_can_be_made_in_a_namespace_that_is_ending() -> None:
    ending = {"message": "no", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}
    async with answering(LEASES, 403, ending) as (client, _):
        with pytest.raises(NotFoundError, match="create Lease shop/web"):
            await client.create(LEASE, {"metadata": {"name": "web"}}, "shop")


async def test_a_server_out_of_reach_is_named_with_what_was_wanted_of_it() -> None:
    async with answering(WEB) as (client, api):
        await api.stop()
        with pytest.raises(PeerError, match=r"could not get Lease shop/web: can't be connected to"):
            await client.get(LEASE, "web", "shop")
        await api.start()


async def test_what_is_made_says_its_kind_and_who_made_it() -> None:
    async with answering(LEASES) as (client, api):
        made = await client.create(LEASE, {"metadata": {"name": "web"}}, "shop")
    (asked,) = api.requests
    assert made.metadata.key == "shop/web"
    assert (asked.method, asked.query) == ("POST", {"fieldManager": "me"})
    assert json.loads(asked.body) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "web"},
    }


@pytest.mark.parametrize(
    ("change", "content"),
    [
        pytest.param({"spec": None}, "application/merge-patch+json", id="a merge patch"),
        pytest.param([{"op": "test"}], "application/json-patch+json", id="operations"),
    ],
)
async def test_a_patch_says_what_it_is(change: Any, content: str) -> None:
    async with answering(WEB) as (client, api):
        await client.patch(LEASE, "web", change, "shop")
    (asked,) = api.requests
    assert (asked.method, asked.headers["content-type"]) == ("PATCH", content)
    assert json.loads(asked.body) == change


async def test_what_is_applied_overrules_others() -> None:
    async with answering(WEB) as (client, api):
        await client.apply(LEASE, "web", {"spec": {}}, "shop")
    (asked,) = api.requests
    assert asked.headers["content-type"] == "application/apply-patch+yaml"
    assert asked.query == {"fieldManager": "me", "force": "true"}


async def test_a_kind_whose_content_must_stay_is_read_without_it() -> None:
    async with answering(WEB) as (client, api):
        await client.get(msgspec.structs.replace(LEASE, metadata_only=True), "web", "shop")
    (asked,) = api.requests
    assert asked.headers["accept"].startswith("application/json;as=PartialObjectMetadata;")


async def test_what_is_deleted_may_be_answered_with_anything() -> None:
    async with answering(WEB, body={"kind": "Status", "status": "Success"}) as (client, api):
        await client.delete(LEASE, "web", "shop")
    assert [each.method for each in api.requests] == ["DELETE"]


async def test_an_answer_nested_deeper_than_python_recurses_is_read() -> None:
    async def nested(exchange: Exchange) -> None:
        body = json.dumps(thing("web", "shop", spec="deep"))
        await exchange.answer(body.replace('"deep"', "[" * 5000 + "]" * 5000).encode())

    async with answering(WEB) as (client, api):
        api.faults[WEB].appendleft(nested)
        assert (await client.get(LEASE, "web", "shop")).metadata.name == "web"
