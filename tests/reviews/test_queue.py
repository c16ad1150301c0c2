"""Whose turn it is, and what is kept of those that wait."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from troth.reviews.objects import ReviewMetadata
from troth.reviews.queue import MOST_OF_NAMESPACE, Asked, next_turns
from troth.reviews.responder import read_asked


def asked(namespace: str, number: int) -> Asked:
    name = f"{namespace}-{number}"
    return Asked(
        metadata=ReviewMetadata(name=name, namespace=namespace, uid=name), spec=msgspec.Raw(b"{}")
    )


def test_what_a_namespace_asks_beyond_its_share_is_refused_and_others_are_answered() -> None:
    flood = [asked("flood", number) for number in range(MOST_OF_NAMESPACE + 2)]
    quiet = asked("quiet", 0)
    turns = next_turns([*flood, quiet], answering={}, refusing=0)
    assert turns.answer == (*flood[:MOST_OF_NAMESPACE], quiet)
    assert turns.refuse == tuple(flood[MOST_OF_NAMESPACE:])


def test_what_is_being_answered_counts_to_the_share() -> None:
    answering = {f"flood-{number}": "flood" for number in range(MOST_OF_NAMESPACE)}
    turns = next_turns([asked("flood", 99)], answering=answering, refusing=0)
    assert (turns.answer, turns.refuse) == ((), (asked("flood", 99),))


@given(
    st.lists(st.sampled_from("abcdefgh"), max_size=200),
    st.lists(st.sampled_from("abcdefgh"), max_size=32),
    st.integers(0, 4),
)
def test_no_number_of_questions_makes_more_work_at_once(
    waiting: list[str], working: list[str], refusing: int
) -> None:
    turns = next_turns(
        [asked(namespace, number) for number, namespace in enumerate(waiting)],
        answering={str(number): namespace for number, namespace in enumerate(working)},
        refusing=refusing,
    )
    assert len(turns.answer) + len(working) <= 32
    assert len(turns.refuse) + refusing <= 4
    begun = Counter(each.metadata.namespace for each in turns.answer)
    before = Counter(working)
    assert all(count + before[each] <= MOST_OF_NAMESPACE for each, count in begun.items())


def sent(**status: object) -> bytes:
    """A review as the API server sends it, and as large as users can make one."""
    metadata = {
        "name": "ask",
        "namespace": "shop",
        "uid": "1",
        "annotations": {"a": "x" * 1_000_000},
    }
    spec = {"nodeName": "here", "question": "Events"}
    return msgspec.json.encode({"metadata": metadata, "spec": spec, "status": status})


def test_of_a_review_nothing_is_kept_but_its_question() -> None:
    tracemalloc.start()
    try:
        kept = [read_asked(msgspec.json.decode(sent(), type=msgspec.Raw)) for _ in range(20)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(kept)
    assert size < 1_000_000


def test_of_an_answered_review_nothing_is_kept() -> None:
    condition = {
        "type": "Answered",
        "status": "True",
        "lastTransitionTime": "2026-03-01T12:00:00Z",
        "reason": "Answered",
        "message": "",
    }
    assert read_asked(msgspec.Raw(sent(conditions=[condition], answer={"events": []}))) is None
