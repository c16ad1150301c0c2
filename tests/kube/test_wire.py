"""Lists are read while they come in, and nothing of them is lost."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.kube.wire import take_items

# Objects that look like items, and strings that look like the places between them.
VALUES = st.recursive(
    st.none() | st.integers() | st.sampled_from(["a", '},{"metadata":{', '"items":[', "]}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.fixed_dictionaries({"metadata": st.just({}), "x": inner}), max_size=3)
        | st.dictionaries(st.sampled_from(["metadata", "items", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ITEMS = st.lists(st.fixed_dictionaries({"metadata": st.just({}), "spec": VALUES}), max_size=6)


def read(text: bytes, cuts: list[int]) -> list[Any]:
    """All items, the text coming in pieces."""
    begun, items = bytearray(), []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        begun += text[begin:end]
        items += take_items(begun)
    rest = json.loads(begun)
    assert rest["metadata"] == {"resourceVersion": "7"}
    return [msgspec.json.decode(item) for item in items] + (rest["items"] or [])


@given(ITEMS, st.data(), st.permutations(["metadata", "items"]), st.sampled_from([None, 1]))
def test_all_items_are_read_whatever_is_in_them_and_wherever_the_pieces_end(
    items: list[Any], data: st.DataObject, order: list[str], indent: int | None
) -> None:
    parts = {"metadata": {"resourceVersion": "7"}, "items": items}
    whole = {key: parts[key] for key in order}
    text = json.dumps(whole, separators=(",", ":"), indent=indent).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    assert read(text, cuts) == items


@pytest.mark.parametrize("items", ["[]", "null"])
def test_an_empty_list_has_no_items(items: str) -> None:
    assert read(b'{"metadata":{"resourceVersion":"7"},"items":%s}' % items.encode(), [9]) == []


def test_only_what_is_still_incomplete_is_held() -> None:
    begun = bytearray(b'{"metadata":{},"items":[{"metadata":{"name":"a"}},{"metadata":{"na')
    assert take_items(begun) == [msgspec.Raw(b'{"metadata":{"name":"a"}}')]
    assert begun == b'{"metadata":{},"items":[{"metadata":{"na'
