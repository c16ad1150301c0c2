"""What is written on a policy, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from troth.cluster.events import Events, EventType
from troth.controller.status import StatusWriter, read_policy
from troth.kube.errors import ConflictError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from troth.kube.client import ApiClient

STORED = {
    "apiVersion": "security.istio.io/v1",
    "kind": "PeerAuthentication",
    "metadata": {"namespace": "shop", "name": "bad", "uid": "u", "resourceVersion": "7"},
    "spec": {"mtls": {"mode": "SOMETIMES"}},
}
"""As a definition without the modes' names would let it through."""


class Told:
    """Stands for the API server, and for the Events on it."""

    def __init__(self, answer: Exception | None = None) -> None:
        self.answer = answer
        self.written: list[tuple[str, str, Any]] = []
        self.events: list[tuple[EventType, str]] = []

    async def patch(self, _: Any, name: str, change: Any, namespace: str, *, part: str) -> None:
        if self.answer is not None:
            raise self.answer
        self.written.append((f"{namespace}/{name}", part, change))

    async def record(self, _: Any, kind: EventType, reason: str, *__: Any) -> None:
        self.events.append((kind, reason))


async def write(told: Told) -> None:
    writer = StatusWriter(
        cast("ApiClient", told), root_namespace="istio-system", events=cast("Events", told)
    )
    policies = [read_policy(STORED)]
    writer.note(policies)
    await writer.write(policies, {})


async def test_a_policy_that_is_refused_says_so_in_its_status_and_by_an_event() -> None:
    told = Told()
    await write(told)
    ((key, part, change),) = told.written
    accepted, _ = change["status"]["conditions"]
    assert (key, part, change["metadata"]) == ("shop/bad", "status", {"resourceVersion": "7"})
    assert (accepted["type"], accepted["status"], accepted["reason"]) == (
        *("Accepted", "False"),
        "Invalid",
    )
    assert "spec.mtls.mode" in accepted["message"]
    assert told.events == [(EventType.WARNING, "Refused")]


@pytest.mark.parametrize("error", [ConflictError, NotFoundError])
async def test_of_a_policy_that_is_gone_or_another_by_now_nothing_is_told(
    error: type[RefusedError],
) -> None:
    told = Told(error("the API server", "no"))
    await write(told)
    assert told.events == []
