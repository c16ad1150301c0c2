from __future__ import annotations

from datetime import timedelta

import pytest
from tests import samples
from tests.samples import NOON

from troth.explain.noted import Plaintext, seen_in_plaintext
from troth.traffic.connection import Connection, Outcome, Party, Side


def connection(
    minute: int = 0,
    *,
    outcome: Outcome = Outcome.PLAINTEXT,
    side: Side = Side.SERVER,
    source: str | None = "legacy/cron",
    destination: str | None = "finance/web",
) -> Connection:
    return samples.connection(
        time=NOON + timedelta(minutes=minute),
        outcome=outcome,
        side=side,
        source=Party(address="10.0.0.1", port=40000 + minute, workload=source),
        destination=Party(address="10.0.0.2", port=8080, workload=destination),
    )


def plaintext(source: str, *, count: int = 1, minute: int = 0) -> Plaintext:
    return Plaintext(
        source=source,
        destination="finance/web",
        port=8080,
        count=count,
        last=NOON + timedelta(minutes=minute),
    )


def test_connections_are_counted_with_the_time_of_the_newest() -> None:
    events = [connection(1), connection(5), connection(3)]

    assert seen_in_plaintext(events) == (plaintext("legacy/cron", count=3, minute=5),)


def test_a_client_that_is_no_workload_is_its_address() -> None:
    assert seen_in_plaintext([connection(source=None)]) == (plaintext("10.0.0.1"),)


@pytest.mark.parametrize(
    "event",
    [
        connection(outcome=Outcome.ACCEPTED),
        connection(outcome=Outcome.REFUSED),
        connection(outcome=Outcome.FAILED),
        connection(side=Side.CLIENT),
        connection(destination=None),
    ],
    ids=["by the tunnel", "refused", "failed", "the client's report", "to outside the mesh"],
)
def test_what_is_no_plaintext_to_a_workload_is_left_out(event: Connection) -> None:
    assert seen_in_plaintext([event]) == ()
