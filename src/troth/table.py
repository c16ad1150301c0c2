"""Immutable mappings: copying with changes, and comparing, costs as much as the differences.

A world of 10,000 pods passes from stage to stage as one immutable value. If its pods were a dict,
every change of one pod would copy 10,000 references, and every stage would compare 10,000 to find
it. A `Table` spreads its entries over buckets, and a copy shares the unchanged ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec

V = TypeVar("V")

_BUCKETS = 256
"""With 10,000 entries, a comparison looks at 256 buckets and a change copies about 40 entries."""


class Table(Mapping[str, V]):
    """An immutable mapping in no particular order.

    Args:
        entries: Its entries.
        base: The entries for all other keys.
        without: Keys of ``base`` to leave out.

    Attributes:
        buckets: Its parts, each immutable.
    """

    __slots__ = ("buckets",)

    def __init__(
        self,
        entries: Mapping[str, V] | None = None,
        *,
        base: Table[V] | None = None,
        without: Iterable[str] = (),
    ) -> None:
        buckets: list[dict[str, V]]
        buckets = list(base.buckets) if base is not None else [{}] * _BUCKETS
        own: set[int] = set()

        def bucket(key: str) -> dict[str, V]:
            number = hash(key) % _BUCKETS
            if number not in own:
                own.add(number)
                buckets[number] = buckets[number].copy()
            return buckets[number]

        for key in without:
            bucket(key).pop(key, None)
        for key, value in (entries or {}).items():
            bucket(key)[key] = value
        self.buckets: tuple[dict[str, V], ...] = tuple(buckets)

    def changed(self, upserted: Mapping[str, V], removed: Iterable[str] = ()) -> Table[V]:
        """A copy with new values for some keys, and without others."""
        return Table(upserted, base=self, without=removed)

    def __getitem__(self, key: str) -> V:
        return self.buckets[hash(key) % _BUCKETS][key]

    def __iter__(self) -> Iterator[str]:
        for bucket in self.buckets:
            yield from bucket

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Table):
            return self.buckets == other.buckets
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # as any mapping: its values may have none

    def __repr__(self) -> str:
        return f"Table({dict(self)!r})"


class Difference(msgspec.Struct, Generic[V], frozen=True, kw_only=True):
    """The difference between two mappings.

    Attributes:
        upserted: New and changed entries.
        removed: Removed entries, with their old values.
    """

    upserted: Mapping[str, V]
    removed: Mapping[str, V]

    def __bool__(self) -> bool:
        return bool(self.upserted or self.removed)

    def __contains__(self, key: str) -> bool:
        return key in self.upserted or key in self.removed


def difference(before: Mapping[str, V], after: Mapping[str, V]) -> Difference[V]:
    """Compare two mappings; for two tables, only the buckets that they don't share."""
    upserted: dict[str, V] = {}
    removed: dict[str, V] = {}
    for old, new in _parts(before, after):
        if old is new:
            continue
        for key, value in new.items():
            former = old.get(key)
            if former is not value and (key not in old or former != value):
                upserted[key] = value
        removed |= {key: value for key, value in old.items() if key not in new}
    return Difference(upserted=upserted, removed=removed)


def _parts(
    before: Mapping[str, V], after: Mapping[str, V]
) -> Iterable[tuple[Mapping[str, V], Mapping[str, V]]]:
    if isinstance(before, Table) and isinstance(after, Table):
        return zip(before.buckets, after.buckets, strict=True)
    return ((before, after),)
