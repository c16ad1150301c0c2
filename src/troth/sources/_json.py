"""JSON from an API server is decoded however deep users nested what troth doesn't read.

Anybody who may write an object may nest its free-form parts (``managedFields`` among them) far
deeper than Python recurses, and one such object must not hide all others. What is deeper than any
field of interest is then cut out, without recursion, and the rest decoded.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")

_DEEPEST = 100
JSON_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


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
