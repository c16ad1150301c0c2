"""JSON from an API server is decoded however deep users nested what troth doesn't read.

Anybody who may write an object may nest its free-form parts (``managedFields`` among them) far
deeper than Python recurses, and one such object must not hide all others. What is deeper than any
field of interest is then cut out, without recursion, and the rest decoded.

A list is decoded while it comes in, so that it never has to be held as a whole: that of a big
cluster's pods is tens of megabytes of JSON, and what troth makes of them a few.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

_DEEPEST = 100
JSON_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)

_ITEMS = b'"items":['
_BETWEEN = b'},{"metadata":{'
"""Where an item ends and another begins, as API servers write it. Inside a string its quotes would
be escaped; between other objects than items it can stand."""


def decode(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Decode ``data`` as ``kind``.

    Raises:
        msgspec.DecodeError: It isn't JSON; as msgspec.ValidationError, it is something else.
    """
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except RecursionError:
            return msgspec.json.decode(without_depths(bytes(data)), type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def without_depths(data: bytes, deepest: int = _DEEPEST) -> bytes:
    """Replace every list and mapping that is nested deeper than ``deepest`` by ``null``."""
    pieces: list[bytes] = []
    depth = kept_from = 0
    for token in JSON_TOKEN.finditer(data):
        match token[0]:
            case b"{" | b"[":
                depth += 1
                if depth == deepest + 1:
                    pieces += (data[kept_from : token.start()], b"null")
            case b"}" | b"]":
                if depth == deepest + 1:
                    kept_from = token.end()
                depth -= 1
    return b"".join((*pieces, data[kept_from:]))


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
