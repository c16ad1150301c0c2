"""Events that are asked for again and again."""

from __future__ import annotations

from tests.explain.seen import connection, world

from troth.reviews.gather import Follower
from troth.reviews.objects import EventsAnswer, Seen

NOW = world()
PAY, WEB = (
    "finance/web > finance/payments:8080 refused",
    "finance/payments > finance/web:8080 plaintext",
)


def answer(*lines: str, left_out: int = 0) -> EventsAnswer:
    seen = tuple(Seen(connection=connection(line, NOW), cause=None) for line in lines)
    return EventsAnswer(events=seen, left_out=left_out)


def take(
    follower: Follower, *answers: EventsAnswer, asked: float, complete: bool = True
) -> tuple[int, int]:
    """How many are new, and how many were left out."""
    fresh = follower.take(answers, asked=asked, complete=complete)
    return len(fresh.connections), fresh.left_out


def test_the_first_question_is_about_everything() -> None:
    follower = Follower()
    assert follower.since_seconds(1000.0) is None
    assert take(follower, answer(PAY, WEB, left_out=3), asked=1000.0) == (2, 3)


def test_the_next_question_reaches_back_before_the_last_one() -> None:
    follower = Follower()
    take(follower, answer(PAY), asked=1000.0)
    assert follower.since_seconds(1002.5) == 33


def test_what_was_told_is_not_told_again() -> None:
    follower = Follower()
    take(follower, answer(PAY), asked=1000.0)
    assert take(follower, answer(PAY, WEB), asked=1002.0) == (1, 0)
    assert take(follower, answer(PAY, WEB), asked=1004.0) == (0, 0)


def test_one_connection_that_two_nodes_tell_alike_is_told_once() -> None:
    assert take(Follower(), answer(PAY), answer(PAY), asked=1000.0) == (1, 0)


def test_what_an_answer_leaves_out_matters_only_where_it_was_not_told() -> None:
    follower = Follower()
    take(follower, answer(PAY), asked=1000.0)
    assert take(follower, answer(PAY, WEB, left_out=5), asked=1002.0) == (1, 0)
    assert take(
        follower, answer("finance/web > finance/web:1 refused", left_out=5), asked=1004.0
    ) == (1, 5)


def test_while_a_node_does_not_answer_its_time_is_asked_about_again() -> None:
    follower = Follower()
    take(follower, answer(PAY), answer(WEB), asked=1000.0)
    assert take(follower, answer(), asked=1010.0, complete=False) == (0, 0)
    assert follower.since_seconds(1020.0) == 50
    # What was told before the node went silent is still known when it is back.
    assert take(follower, answer(PAY), answer(WEB), asked=1020.0) == (0, 0)
