"""What counts as the outcome of a try, and what as another than it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.demo.samples import ANSWERED, BY_TUNNEL, IMPOSTOR, PASSED, REFUSED, RESET, refused_trace
from tests.samples import ACCEPTED, STRICT

from troth.connect.findings import Attempt, Reached
from troth.demo.scenario import Happened
from troth.demo.walk import judge_attempt, judge_trace

if TYPE_CHECKING:
    from troth.traffic.connection import Connection


def _attempt(reached: Reached, event: Connection | None) -> Attempt:
    return msgspec.structs.replace(
        ANSWERED if reached is Reached.ANSWERED else RESET, reached=reached, event=event
    )


@pytest.mark.parametrize(
    ("attempt", "happened", "detail"),
    [
        pytest.param(
            _attempt(Reached.ANSWERED, ACCEPTED),
            Happened.TUNNEL,
            '200 OK "paid", by the tunnel as spiffe://cluster.local/ns/finance/sa/web',
            id="answered by the tunnel",
        ),
        pytest.param(
            _attempt(Reached.ANSWERED, PASSED),
            Happened.PLAINTEXT,
            '200 OK "paid", in plaintext',
            id="answered in plaintext",
        ),
        pytest.param(
            _attempt(Reached.RESET, REFUSED),
            Happened.REFUSED,
            "refused: plaintext to strict (connection reset by peer)",
            id="reset and reported as refused",
        ),
        pytest.param(
            _attempt(Reached.ANSWERED, REFUSED),
            Happened.FAILED,
            '200 OK "paid"',
            id="answered although reported as refused",
        ),
        pytest.param(
            _attempt(Reached.RESET, ACCEPTED),
            Happened.FAILED,
            "Connection reset by peer",
            id="reset although reported as accepted",
        ),
        pytest.param(
            _attempt(Reached.SILENT, REFUSED),
            Happened.FAILED,
            "Connection reset by peer",
            id="left hanging is no refusal",
        ),
        pytest.param(
            _attempt(Reached.ANSWERED, None),
            Happened.FAILED,
            '200 OK "paid"',
            id="answered without any report",
        ),
    ],
)
def test_what_became_of_a_request_takes_client_and_proxy_to_agree(
    attempt: Attempt, happened: Happened, detail: str
) -> None:
    report = judge_attempt(BY_TUNNEL, attempt)
    assert (report.happened, report.detail) == (happened, detail)
    assert report.ok is (happened is Happened.TUNNEL)


@pytest.mark.parametrize(
    ("event", "difference"),
    [
        pytest.param(
            msgspec.structs.replace(ACCEPTED, decided_by=STRICT),
            "no policy should decide, policy finance/strict does",
            id="another policy decided",
        ),
        pytest.param(
            msgspec.structs.replace(ACCEPTED, peer="spiffe://cluster.local/ns/finance/sa/other"),
            "the client should be finance/web, is spiffe://cluster.local/ns/finance/sa/other",
            id="another identity was seen",
        ),
        pytest.param(
            msgspec.structs.replace(ACCEPTED, peer=None),
            "the client should be finance/web, is unknown",
            id="no identity was seen",
        ),
        pytest.param(
            PASSED,
            "should be tunnel, is plaintext",
            id="it went in plaintext",
        ),
        pytest.param(None, "the proxy reports no such connection", id="nothing was reported"),
    ],
)
def test_a_try_differs_when(event: Connection | None, difference: str) -> None:
    report = judge_attempt(BY_TUNNEL, msgspec.structs.replace(ANSWERED, event=event))
    assert difference in report.differs
    assert not report.ok


def test_an_impostor_refused_by_the_servers_own_alert_is_as_it_should_be() -> None:
    report = judge_trace(IMPOSTOR, refused_trace())
    assert (report.happened, report.differs) == (Happened.REFUSED, ())


@pytest.mark.parametrize(
    ("alert", "difference"),
    [
        pytest.param(
            "unknown_ca (48)",
            "the server should send the alert certificate_expired, it sends the alert unknown_ca",
            id="for another reason",
        ),
        pytest.param(
            "",
            "the server should send the alert certificate_expired, it sends no alert",
            id="without an alert",
        ),
    ],
)
def test_an_impostor_refused_otherwise_differs(alert: str, difference: str) -> None:
    assert judge_trace(IMPOSTOR, refused_trace(alert=alert)).differs == (difference,)
