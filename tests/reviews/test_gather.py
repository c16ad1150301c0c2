"""Whom to ask about a namespace, and what the answers are together."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.explain.seen import NOON, connection, pod, totals, world

from troth.explain.audit import audit
from troth.explain.audit_report import PortState
from troth.explain.noted import Observations, noted_in_plaintext
from troth.explain.remedies import note
from troth.explain.why import why
from troth.mesh.model import Pod, PodPhase
from troth.reviews.gather import Follower, concerned_nodes, gather
from troth.reviews.limits import totals_of, world_of
from troth.reviews.objects import EventsAnswer, Seen
from troth.traffic.connection import Side


def on(node: str, **changes: object) -> Pod:
    given: dict[str, object] = {"node": node, "captured": True}
    return msgspec.structs.replace(pod("finance/web"), **(given | changes))


AGENTS = frozenset({"a", "b", "c"})


@pytest.mark.parametrize(
    ("pods", "agents", "asked"),
    [
        pytest.param([on("a"), on("b")], AGENTS, {"a", "b"}, id="its pods' own"),
        pytest.param([on("a"), on("b", captured=False)], AGENTS, {"a", "b"}, id="also the others"),
        pytest.param([on("a", captured=False)], AGENTS, AGENTS, id="all, of pods outside"),
        pytest.param([on("a", captured=False)], None, {"a"}, id="theirs, if no other is known"),
        pytest.param([on("a", phase=PodPhase.FAILED), on("b")], AGENTS, {"b"}, id="no ended pods'"),
        pytest.param([on("")], AGENTS, AGENTS, id="a pod that is nowhere yet"),
        pytest.param([], None, set(), id="nobody"),
    ],
)
def test_those_are_asked_who_may_have_seen_something(
    pods: list[Pod], agents: frozenset[str] | None, asked: set[str]
) -> None:
    assert concerned_nodes(pods, agents) == asked
    if agents is not None:
        assert concerned_nodes(pods, agents, everywhere=True) == agents


NOW = world()


def answered(*lines: str, side: Side = Side.SERVER, minutes: int = 0) -> Observations:
    """What a node says that has seen these connections."""
    seen = [connection(line, NOW, side=side) for line in lines]
    return Observations(
        complete_since=NOON + timedelta(minutes=minutes),
        noted=tuple(note(totals_of("finance", totals(seen)), NOW)),
        world=world_of("finance", NOW, node=""),
    )


def test_one_connection_that_both_ends_nodes_report_is_told_once() -> None:
    line = "finance/web > finance/payments:8080 refused"
    seen = gather(
        {
            "a": answered(f"{line} refused_by_peer", side=Side.CLIENT),
            "b": answered(f"{line} no_client_certificate"),
        }
    )
    (refusal,) = why(seen).refusals
    assert refusal.reason == "no_client_certificate"


def test_a_port_is_not_ready_when_any_node_has_seen_plaintext() -> None:
    seen = gather(
        {
            "a": answered("finance/web > finance/payments:8080 accepted", minutes=1),
            "b": answered("legacy/cron > finance/payments:8080 plaintext", minutes=2),
        }
    )
    report = audit(seen, since=NOON, now=NOON)
    (payments,) = (each for each in report.workloads if each.name == "payments")
    assert payments.ports[8080].state is PortState.PLAINTEXT
    assert [each.source for each in payments.ports[8080].because_of] == ["legacy/cron"]
    assert {each.namespace for each in report.workloads} == {"finance"}
    assert report.complete_since == NOON + timedelta(minutes=2)
    assert [each.source for each in noted_in_plaintext(seen.noted)] == ["legacy/cron"]


def test_an_answer_is_read_as_it_was_written() -> None:
    answer = answered("finance/web > finance/payments:8080 refused not_tls")
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Observations) == answer


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
