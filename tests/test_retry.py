"""The waits after failures: doubled, limited, spread, and short again after a success."""

from __future__ import annotations

from datetime import timedelta

from troth.retry import Backoff, doubled


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(1, 60)
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_first_failure_may_be_followed_by_no_wait() -> None:
    backoff = Backoff(0.1, 5, at_once=True)
    assert [backoff.next() for _ in range(9)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]


def test_a_success_makes_the_next_wait_the_first_again() -> None:
    backoff = Backoff(1, 60)
    backoff.next()
    backoff.next()
    backoff.reset()
    assert backoff.next() == 1


def test_a_long_run_counts_as_a_success() -> None:
    backoff = Backoff(1, 60)
    assert [backoff.after(ran) for ran in (0, 0, 9.9, 10, 0)] == [1, 2, 4, 1, 2]


def test_many_failures_do_not_overflow() -> None:
    backoff = Backoff(0.1, 5, at_once=True)
    assert {backoff.next() for _ in range(5000)} == {0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5}


def test_a_wait_is_spread_and_no_wait_is_not() -> None:
    backoff = Backoff(0.1, 5, at_once=True, jitter=lambda wait: wait + 1)
    assert [backoff.next(), backoff.next()] == [0, 1.1]


def test_durations_double_as_numbers_do() -> None:
    second, minute = timedelta(seconds=1), timedelta(minutes=1)
    assert [doubled(second, minute, times) for times in (0, 3, 6, 10**6)] == [
        *(second, 8 * second, minute, minute)
    ]
