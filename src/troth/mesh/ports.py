"""Sets of TCP ports that may have all but a few."""

from __future__ import annotations

import re
from typing import Self

import msgspec

_NONE: frozenset[int] = frozenset()  # one for all: an empty set takes as much as a small one
_NUMBERS = r"\d{1,5}(?:,\d{1,5})*"
_TEXT = re.compile(rf"(?P<all>all)(?: but (?P<but>{_NUMBERS}))?|(?P<only>{_NUMBERS})?")
_LAST = 65535
_MOST = 256
"""A text that names more is nobody's who means well: each is an entry in every node's Envoy."""


class Ports(msgspec.Struct, frozen=True, gc=False):
    """Some of a pod's TCP ports.

    Attributes:
        usual: Whether it has the ports that ``exceptions`` doesn't name.
        exceptions: The ports for which the opposite holds.
    """

    usual: bool = False
    exceptions: frozenset[int] = _NONE

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What `str` made a text of; None if it made none such."""
        match = _TEXT.fullmatch(text)
        if match is None:
            return None
        listed = match["but"] or match["only"] or ""
        numbers = frozenset(int(each) for each in listed.split(",") if each)
        if len(numbers) > _MOST or any(not 0 < number <= _LAST for number in numbers):
            return None
        return cls(match["all"] is not None, numbers or _NONE)

    def __str__(self) -> str:
        numbers = ",".join(map(str, sorted(self.exceptions)))
        if not self.usual:
            return numbers
        return f"all but {numbers}" if numbers else "all"

    def __contains__(self, port: int) -> bool:
        return self.usual is not (port in self.exceptions)

    def __bool__(self) -> bool:
        return self.usual or bool(self.exceptions)

    def __invert__(self) -> Self:
        return type(self)(not self.usual, self.exceptions)

    def __and__(self, other: Ports) -> Ports:
        usual = self.usual and other.usual
        named = self.exceptions | other.exceptions
        return Ports(
            usual,
            frozenset(n for n in named if (n in self and n in other) is not usual) or _NONE,
        )

    def __or__(self, other: Ports) -> Ports:
        return ~(~self & ~other)


NO_PORTS = Ports()
ALL_PORTS = Ports(usual=True)
