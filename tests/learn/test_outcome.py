"""What happened, compared with what a lesson expects."""

from __future__ import annotations

import pytest
from tests.demo.samples import ANSWERED, RESET, refused_trace

from troth.demo.scenario import Happened
from troth.demo.walk import seen_of_attempt, seen_of_trace
from troth.learn.lesson import Expectation
from troth.learn.outcome import differences, expectation_rows, observed
from troth.traffic.connection import Reason

BY_TUNNEL = observed(seen_of_attempt(ANSWERED))
REFUSED = observed(seen_of_attempt(RESET))
TRACE = refused_trace()
TRACED = observed(seen_of_trace(TRACE), TRACE.report)


def test_the_identity_is_a_service_account() -> None:
    assert BY_TUNNEL.identity == "finance/web"
    assert REFUSED.identity == "none"


@pytest.mark.parametrize(
    "expected",
    [
        Expectation(happens=Happened.TUNNEL, identity="finance/web"),
        Expectation(),
    ],
)
def test_what_is_as_expected_differs_in_nothing(expected: Expectation) -> None:
    assert list(differences(expected, BY_TUNNEL)) == []


@pytest.mark.parametrize(
    ("expected", "word"),
    [
        (Expectation(happens=Happened.PLAINTEXT), "what happens: expected plaintext, but tunnel"),
        (Expectation(identity="none"), "identity"),
        (Expectation(reason=Reason.PLAINTEXT_TO_STRICT), "reason"),
        (Expectation(decided_by="finance/other"), "decided"),
        (Expectation(alert="unknown_ca"), "alert"),
        (Expectation(ready=True), "ready for STRICT: expected yes, but nothing known"),
    ],
)
def test_each_difference_is_told(expected: Expectation, word: str) -> None:
    (difference,) = differences(expected, BY_TUNNEL)
    assert word in difference


def test_the_wire_is_compared_by_its_order() -> None:
    in_order = ("client ClientHello", "server alert")
    assert not list(differences(Expectation(wire=in_order), TRACED))
    assert list(differences(Expectation(wire=in_order[::-1]), TRACED))
    assert list(differences(Expectation(wire=in_order), BY_TUNNEL))


def test_an_expectation_is_told_in_words() -> None:
    expected = Expectation(reason=Reason.PLAINTEXT_TO_STRICT, wire=("client a", "server b"))
    assert dict(expectation_rows(expected)) == {
        "the reason": "plaintext to strict",
        "on the wire": "client a before server b",
    }
