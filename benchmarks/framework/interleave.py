"""Contenders measured by turns, so that what disturbs the machine disturbs them all alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

T = TypeVar("T")


def interleaved(
    contenders: Mapping[str, Callable[[], T]], rounds: Iterable[object]
) -> dict[str, list[T]]:
    """Measure each contender once in every round; who begins changes from round to round.

    Returns:
        The samples of each, in the order of the rounds.
    """
    names = list(contenders)
    samples: dict[str, list[T]] = {name: [] for name in names}
    for number, _ in enumerate(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            samples[name].append(contenders[name]())
    return samples
