"""A table is a mapping that shares with its copies what is the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from troth.table import Table, difference

keys = st.sampled_from([f"key-{n}" for n in range(8)])
entries = st.dictionaries(keys, st.integers(0, 3))
edits = st.tuples(entries, st.sets(keys))


@given(entries, st.lists(edits, max_size=4))
def test_a_table_has_what_a_dict_would_have(
    known: dict[str, int], changes: list[tuple[dict[str, int], set[str]]]
) -> None:
    table = Table(known)
    for upserted, removed in changes:
        before, copied = table, dict(table)
        table = table.changed(upserted, removed)
        assert before == copied
        known = {key: value for key, value in known.items() if key not in removed} | upserted
        assert (dict(table), len(table)) == (known, len(known))
        assert table == known
        assert all(table[key] == value for key, value in known.items())


@given(entries, edits, st.booleans())
def test_the_difference_leads_from_one_mapping_to_the_other(
    known: dict[str, int],
    change: tuple[dict[str, int], set[str]],
    shares: bool,  # noqa: FBT001 - hypothesis passes it so
) -> None:
    before = Table(known)
    after = before.changed(*change)
    found = difference(before, after) if shares else difference(known, dict(after))
    assert {**known, **found.upserted}.keys() - found.removed.keys() == after.keys()
    assert before.changed(found.upserted, found.removed) == after
    assert all(known.get(key) != value for key, value in found.upserted.items())
    assert found.removed == {key: value for key, value in known.items() if key not in after}
    assert bool(found) is (known != after)


def test_what_did_not_change_is_shared_and_not_looked_at() -> None:
    class Untouchable:
        def __eq__(self, other: object) -> bool:
            raise AssertionError

        __hash__ = None  # type: ignore[assignment]  # nobody asks

    before = Table[object]({f"key-{n}": Untouchable() for n in range(1000)})
    after = before.changed({"new": 1})
    assert list(difference(before, after).upserted) == ["new"]
    assert sum(a is not b for a, b in zip(before.buckets, after.buckets, strict=True)) == 1
