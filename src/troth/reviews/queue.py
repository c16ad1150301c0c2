"""Which of the reviews put to a node have their turn: pure.

Whoever may ask about a namespace decides how many questions there are and how large their objects
are. So of each only the question is kept, of an answered one nothing, and a namespace has but few
at a time: what is beyond is refused, not queued.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.reviews.objects import ReviewMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ANSWERED_AT_ONCE = 32
_REFUSED_AT_ONCE = 4
MOST_OF_NAMESPACE = 8
"""Open reviews."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A review without an answer.

    Attributes:
        spec: The question; that it can be read is yet to be seen.
    """

    metadata: ReviewMetadata
    spec: msgspec.Raw


class Turns(NamedTuple):
    """What to begin with."""

    answer: tuple[Asked, ...]
    refuse: tuple[Asked, ...]


def next_turns(waiting: Iterable[Asked], *, answering: Mapping[str, str], refusing: int) -> Turns:
    """Who is next.

    Args:
        waiting: Those that nothing was begun with, in the order in which they were heard of.
        answering: The namespaces of those being answered, by UID.
        refusing: How many are being refused.
    """
    of_namespace = Counter(answering.values())
    answer: list[Asked] = []
    refuse: list[Asked] = []
    for each in waiting:
        of_namespace[each.metadata.namespace] += 1
        too_many = of_namespace[each.metadata.namespace] > MOST_OF_NAMESPACE
        (refuse if too_many else answer).append(each)
    return Turns(
        tuple(answer[: _ANSWERED_AT_ONCE - len(answering)]),
        tuple(refuse[: _REFUSED_AT_ONCE - refusing]),
    )
