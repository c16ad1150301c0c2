"""A fixed piece of Python work: what a machine's speed is measured by.

Times of pure code mean something elsewhere only as multiples of this, taken in the same rounds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT = "yardstick"
_ITEMS = 20_000


def yardstick() -> float:
    """Milliseconds of CPU that the fixed work takes here and now."""
    return timed(_work)


def timed(action: Callable[[], object]) -> float:
    """Milliseconds of CPU that ``action`` takes in this thread: others' work is not counted."""
    begun = time.thread_time()
    action()
    return (time.thread_time() - begun) * 1000


def _work() -> int:
    """What pure code mostly does: text, dictionaries, tuples, sorting."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for number in range(_ITEMS):
        key = f"group-{number * 7919 % 997}"
        groups.setdefault(key, []).append((number, key))
    merged = [pair for _, pairs in sorted(groups.items()) for pair in pairs]
    return sum(number for number, key in merged if key.endswith("1"))
