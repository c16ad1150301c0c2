"""When an agent counts as silent."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tests.controller.conftest import NOW

from troth.cluster.installation import Lease
from troth.controller.liveness import Liveness

if TYPE_CHECKING:
    from datetime import datetime


def lease(renewed: datetime = NOW, duration: int = 15, holder: str = "node-1") -> Lease:
    return Lease(holder_identity=holder, lease_duration_seconds=duration, renew_time=renewed)


def look(
    liveness: Liveness, found: Lease, at: float, now: datetime = NOW, *, up_to_date: bool = True
) -> bool:
    return bool(liveness.silent({"node-1": found}, at=at, now=now, up_to_date=up_to_date))


def test_an_agent_is_silent_when_its_lease_was_not_renewed_for_as_long_as_it_lasts() -> None:
    liveness = Liveness()
    assert not look(liveness, lease(), at=100)
    assert not look(liveness, lease(), at=114.9)
    assert look(liveness, lease(), at=115)


def test_each_renewal_counts_by_when_it_was_seen_whatever_the_holders_clock_says() -> None:
    liveness = Liveness()
    ages = [NOW - timedelta(seconds=3), NOW + timedelta(hours=1), NOW - timedelta(days=1)]
    for turn, renewed in enumerate(ages):
        assert not look(liveness, lease(renewed), at=100 + 14 * turn)
    assert look(liveness, lease(ages[-1]), at=100 + 14 * 2 + 15)


def test_an_agent_that_renews_again_is_silent_no_more() -> None:
    liveness = Liveness()
    look(liveness, lease(), at=100)
    assert look(liveness, lease(), at=200)
    assert not look(liveness, lease(NOW + timedelta(seconds=100)), at=200)


def test_a_lease_that_had_run_out_at_first_sight_is_a_silent_agents() -> None:
    assert look(Liveness(), lease(), at=100, now=NOW + timedelta(minutes=1))


def test_a_lease_that_is_given_back_ends_within_a_second() -> None:
    liveness = Liveness()
    look(liveness, lease(), at=100)
    given_back = lease(NOW + timedelta(seconds=1), duration=1, holder="")
    assert not look(liveness, given_back, at=101)
    assert look(liveness, given_back, at=102)


def test_time_in_which_renewals_are_not_seen_is_held_against_nobody() -> None:
    liveness = Liveness()
    look(liveness, lease(), at=100)
    for at in range(101, 200):
        assert not look(liveness, lease(), at=at, up_to_date=False)
    assert not look(liveness, lease(), at=213)
    assert look(liveness, lease(), at=214)


def test_who_was_silent_before_renewals_were_missed_still_is() -> None:
    liveness = Liveness()
    look(liveness, lease(), at=100)
    assert look(liveness, lease(), at=115)
    assert look(liveness, lease(), at=116, up_to_date=False)
    assert look(liveness, lease(), at=117)
