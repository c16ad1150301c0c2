"""What a plain YAML scalar means to Kubernetes, which is not quite any version of YAML.

``kubectl`` and the API server read YAML through sigs.k8s.io/yaml: YAML 1.1 booleans (``yes``,
``on``, ``y``), YAML 1.1 octals, 64-bit integers that overflow to floats, ``1e3`` as a number, but
neither sexagesimals (``12:30``) nor timestamps. The value ends up as JSON, so mapping keys are
strings. troth reads the same, so that a file means here what it means in a cluster.
"""

from __future__ import annotations

import math
import re

type_of_tag = {
    "tag:yaml.org,2002:null": type(None),
    "tag:yaml.org,2002:bool": bool,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
}
"""Explicit scalar tags (``!!int``) besides ``!!str``, by what the scalar must turn out to be."""

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(
        ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"), True
    ),
    **dict.fromkeys(
        ("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"), False
    ),
}
_INTEGER = re.compile(r"[-+]?(?:[0-9]+|0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NUMBER_STARTS = frozenset("+-.0123456789")
_LONGEST_INTEGER = 70  # characters of a 64-bit integer in binary, with sign and prefix


def plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted, untagged scalar."""
    if text[:1] in _NUMBER_STARTS and text:
        return _number(text)
    return _WORDS.get(text, text)


def _number(text: str) -> str | int | float:
    digits = text.replace("_", "")
    if len(digits) <= _LONGEST_INTEGER and _INTEGER.fullmatch(digits):
        integer = _integer(digits)
        if integer is not None and -(2**63) <= integer < 2**64:
            return integer
    if _FLOAT.fullmatch(digits):
        number = float(digits)
        if math.isfinite(number):
            return number
    return text


def _integer(digits: str) -> int | None:
    unsigned = digits.lstrip("+-")
    octal = unsigned.isdigit() and len(unsigned) > 1 and unsigned.startswith("0")
    try:
        return int(digits, 8 if octal else 0)
    except ValueError:  # 08 and 09 are no octals; they go on as floats
        return None


def key(value: str | float) -> str:
    """The JSON key that a scalar mapping key becomes; a boolean becomes its word."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value).removesuffix(".0")
