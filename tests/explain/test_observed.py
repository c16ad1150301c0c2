from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from troth.explain import Plaintext, seen_in_plaintext
from troth.mesh import Connection, Outcome, Party, Reason, Side

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def connection(
    minute: int = 0,
    *,
    outcome: Outcome = Outcome.PLAINTEXT,
    side: Side = Side.SERVER,
    source: str | None = "legacy/cron",
    destination: str | None = "finance/web",
) -> Connection:
    return Connection(
        time=NOON + timedelta(minutes=minute),
        outcome=outcome,
        reason=Reason.NONE,
        detail="",
        side=side,
        source=Party(address="10.0.0.1", port=40000 + minute, workload=source),
        destination=Party(address="10.0.0.2", port=8080, workload=destination),
        peer=None,
        claimed_peer=None,
        mode=None,
        decided_by=None,
        tls_version="",
        tls_cipher="",
        tls_group="",
        duration_ms=1,
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
