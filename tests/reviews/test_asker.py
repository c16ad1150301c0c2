"""What is made of what node agents say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from troth.errors import PeerError
from troth.explain.noted import Observations
from troth.explain.why import Unanswered
from troth.reviews.asker import Replies
from troth.reviews.objects import EventsAnswer

GOOD = b'{"events": []}'
DEEP = b'{"events": ' + b"[" * 5000 + b"]" * 5000 + b"}"
# A trust domain that none can have is told by an error of troth's own.
FORGED = (
    b'{"complete_since": "2026-03-01T12:00:00Z", "noted": [], '
    b'"world": {"trust_domain": {"name": "No Domain"}}}'
)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        pytest.param(b"null", EventsAnswer, id="nothing"),
        pytest.param(b'{"events": [{"connection": {}}]}', EventsAnswer, id="another version's"),
        pytest.param(DEEP, EventsAnswer, id="nested without end"),
        pytest.param(FORGED, Observations, id="a value that can't be"),
    ],
)
def test_an_answer_that_makes_no_sense_takes_no_good_one_down(said: bytes, kind: type[Any]) -> None:
    answers = {"bad": msgspec.Raw(said), "good": msgspec.Raw(GOOD)}
    replies = Replies(
        answers,
        {"careful": PeerError("node careful", "no such pod", "name another")},
        (Unanswered(node="silent", why="no answer within 3 s"),),
    )
    read, lacking = replies.read(kind)
    assert set(read) == ({"good"} if kind is EventsAnswer else set())
    assert {"silent", "careful", "bad"} <= {each.node for each in lacking}
