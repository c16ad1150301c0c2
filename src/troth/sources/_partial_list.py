"""A list of the API server's is read while it comes in, so that it never has to be held as a whole.

The list of a big cluster's pods is tens of megabytes of JSON, and what troth makes of them a few.
"""

from __future__ import annotations

import msgspec

from troth.sources._json import decode

_ITEMS = b'"items":['
_BETWEEN = b'},{"metadata":{'
"""Where an item ends and another begins, as API servers write it. Inside a string its quotes would
be escaped; between other objects than items it can stand."""


def take_items(begun: bytearray) -> list[msgspec.Raw]:
    """Cut the items that are complete out of a list of which the end is still missing.

    Nothing relies on how the server writes it: what is left, with what comes later, is always the
    list of all other items.

    Args:
        begun: The list as far as it has come; it is changed.
    """
    first = begun.find(_ITEMS)
    if first < 0:
        return []
    items = []
    begin = first = first + len(_ITEMS)
    end = begun.find(_BETWEEN, begin)
    while end >= 0:
        item = _whole(bytes(begun[begin : end + 1]))
        if item is not None:
            items.append(item)
            begin = end + len(b"},")
        end = begun.find(_BETWEEN, end + 1)
    del begun[first:begin]
    return items


def _whole(text: bytes) -> msgspec.Raw | None:
    """The text, if it is one JSON value and not the beginning of one."""
    try:
        return decode(text, msgspec.Raw)
    except msgspec.DecodeError:
        return None
