from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.policy.model import Mode
from troth.policy.scope import Scope
from troth.policy.verdict import DecidedBy
from troth.traffic.connection import Connection, Outcome, Party, Reason, Side
from troth.traffic.tally import OTHERS, Tally, TallyState

if TYPE_CHECKING:
    from collections.abc import Iterable

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def party(name: str, port: int = 40000) -> Party:
    if "/" in name:
        return Party(address="10.0.0.9", port=port, pod=f"{name}-0", workload=name)
    return Party(address=name, port=port)


def connection(
    source: str = "shop/web",
    destination: str = "shop/pay",
    port: int = 8080,
    *,
    time: datetime = NOON,
    outcome: Outcome = Outcome.ACCEPTED,
    reason: Reason = Reason.NONE,
    mode: Mode = Mode.PERMISSIVE,
) -> Connection:
    return Connection(
        time=time,
        outcome=outcome,
        reason=reason,
        detail="",
        side=Side.SERVER,
        source=party(source),
        destination=party(destination, port),
        peer=None,
        claimed_peer=None,
        mode=mode,
        decided_by=DecidedBy(scope=Scope.DEFAULT),
        tls_version="",
        tls_cipher="",
        tls_group="",
        duration_ms=0,
    )


def tally(connections: Iterable[Connection], *, most: int = 4096) -> Tally:
    result = Tally(NOON - HOUR, most=most)
    for each in connections:
        result.add(each)
    return result


def test_connections_of_one_kind_are_counted_together() -> None:
    (total,) = tally(connection(time=NOON + n * MINUTE) for n in range(3)).totals()
    assert (total.source, total.destination, total.port) == ("shop/web", "shop/pay", 8080)
    assert (total.count, total.first, total.last) == (3, NOON, NOON + 2 * MINUTE)
    assert total.newest.time == NOON + 2 * MINUTE


def test_an_event_that_tells_of_many_connections_counts_as_many() -> None:
    many = msgspec.structs.replace(connection(), count=40)
    (total,) = tally([many, connection()]).totals()
    assert total.count == 41


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(connection(source="shop/job"), id="another source"),
        pytest.param(connection(source="10.0.0.7"), id="a stranger"),
        pytest.param(connection(destination="shop/stock"), id="another destination"),
        pytest.param(connection(port=9090), id="another port"),
        pytest.param(connection(outcome=Outcome.PLAINTEXT), id="another outcome"),
        pytest.param(connection(reason=Reason.OTHER), id="another reason"),
        pytest.param(connection(mode=Mode.STRICT), id="another mode"),
    ],
)
def test_connections_of_different_kinds_are_counted_apart(other: Connection) -> None:
    assert len(tally([connection(), other]).totals()) == 2


def test_the_newest_total_comes_first() -> None:
    counted = tally([connection(port=1, time=NOON + MINUTE), connection(port=2)])
    assert [total.port for total in counted.totals()] == [1, 2]


def test_a_late_report_of_an_older_connection_does_not_pass_for_the_newest() -> None:
    (total,) = tally([connection(time=NOON), connection(time=NOON - MINUTE)]).totals()
    assert (total.first, total.last, total.count) == (NOON - MINUTE, NOON, 2)


def test_only_what_was_seen_in_the_time_asked_for_is_counted() -> None:
    counted = tally(connection(time=NOON + n * MINUTE) for n in (0, 30, 59))
    (total,) = counted.totals(since=NOON + 29 * MINUTE)
    assert total.count == 2
    assert counted.totals(since=NOON + HOUR) == ()


def test_what_is_older_than_two_hours_is_counted_by_the_hour() -> None:
    counted = tally(connection(time=NOON + n * MINUTE) for n in (1, 50, 59, 500))
    (total,) = counted.totals(since=NOON + 58 * MINUTE)
    assert total.count == 4
    (total,) = counted.totals(since=NOON + 61 * MINUTE)
    assert total.count == 1


def test_what_is_older_than_a_week_is_forgotten_and_that_is_said() -> None:
    week = timedelta(days=7)
    counted = tally([connection(port=1), connection(port=2), connection(port=2, time=NOON + week)])
    counted.add(connection(port=3, time=NOON + week + 3 * HOUR))
    assert {total.port: total.count for total in counted.totals()} == {2: 1, 3: 1}
    assert counted.complete_since == NOON + 3 * HOUR


def test_strangers_are_counted_together_once_there_are_too_many() -> None:
    strangers = (
        connection(source=f"10.9.{n // 250}.{n % 250}", port=n, outcome=Outcome.REFUSED)
        for n in range(1, 1000)
    )
    totals = tally(strangers, most=100).totals()
    assert len(totals) == 101
    assert sum(total.count for total in totals) == 999
    (others,) = (total for total in totals if total.source == OTHERS)
    assert (others.destination, others.port, others.count) == ("shop/pay", 0, 899)


def test_plaintext_that_a_workload_took_is_not_lost_among_strangers() -> None:
    strangers = [connection(source=f"10.9.0.{n}", outcome=Outcome.REFUSED) for n in range(100)]
    passed = [
        connection(outcome=Outcome.PLAINTEXT),
        connection(source="10.8.0.1", outcome=Outcome.PLAINTEXT),
    ]
    totals = tally([*strangers, *passed], most=50).totals()
    found = {(t.source, t.port) for t in totals if t.newest.outcome is Outcome.PLAINTEXT}
    assert found == {("shop/web", 8080), (OTHERS, 8080)}


def test_the_number_of_totals_is_bounded_and_what_is_forgotten_is_said() -> None:
    counted = tally(
        (connection(source=f"shop/web-{n}", time=NOON + n * MINUTE) for n in range(500)), most=50
    )
    totals = counted.totals()
    assert len(totals) <= 100
    assert totals[0].source == "shop/web-499"
    assert counted.complete_since == totals[-1].last - MINUTE


@given(
    st.lists(
        st.builds(
            connection,
            source=st.sampled_from(["shop/web", "10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            port=st.integers(1, 4),
            outcome=st.sampled_from(Outcome),
            time=st.datetimes(datetime(2026, 3, 1), datetime(2026, 3, 20)).map(  # noqa: DTZ001 - made aware here
                lambda naive: naive.replace(tzinfo=UTC)
            ),
        )
    )
)
def test_a_tally_restored_from_its_state_counts_on_as_if_nothing_had_been(
    connections: list[Connection],
) -> None:
    half = len(connections) // 2
    whole = tally(connections, most=4)
    first = tally(connections[:half], most=4)
    state = msgspec.json.decode(msgspec.json.encode(first.state()), type=TallyState)
    second = Tally.restored(state, most=4)
    for each in connections[half:]:
        second.add(each)
    assert second.totals() == whole.totals()
    assert second.complete_since == whole.complete_since
