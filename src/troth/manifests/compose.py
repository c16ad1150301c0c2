"""Turns the parser events of one YAML document, which may be hostile, into JSON-like values.

It uses libyaml's events rather than PyYAML's nodes, in one loop without recursion: nesting is
limited before it can exhaust the stack, aliases before they multiply (the "billion laughs"), tags
never construct anything, and a duplicate key is an error, as in Kubernetes' strict decoding.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NoReturn

import yaml

from troth.errors import InputError, Location, Problem
from troth.syntax import described

if TYPE_CHECKING:
    from collections.abc import Iterator

DEEPEST_NESTING = 100
"""Levels of nesting; Kubernetes' own objects stay far below."""

MOST_ALIASED_VALUES = 100_000
"""The number of values that all aliases of one document may add."""

_PREFIX = "tag:yaml.org,2002:"
_STRING_TAGS = frozenset({"!", _PREFIX + "str"})
_COLLECTION_TAGS = {
    yaml.MappingStartEvent: frozenset({"!", _PREFIX + "map"}),
    yaml.SequenceStartEvent: frozenset({"!", _PREFIX + "seq"}),
}
_MERGE = "<<"
_NO_KEY = object()

_MERGE_KEY = object()

_REFUSED_KEY = object()

_TYPE_OF_TAG = {
    "tag:yaml.org,2002:null": type(None),
    "tag:yaml.org,2002:bool": bool,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
}
"""Explicit scalar tags (``!!int``) except ``!!str``, with the types that the scalar must have."""

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


class _Frame:
    """A collection that is still open."""

    __slots__ = ("anchor", "key", "line", "lines", "merged", "size", "value")

    def __init__(
        self, value: dict[str, object] | list[object], anchor: str | None, line: int
    ) -> None:
        self.value = value
        self.anchor = anchor
        self.line = line
        self.key: object = _NO_KEY  # the key whose value comes next, in a mapping
        self.size = 1  # the number of values, with aliases expanded
        self.lines: dict[str, int] = {}  # by key, or by an item's number
        self.merged: list[dict[str, object]] = []


class Composer:
    """Builds the value of one document.

    Attributes:
        problems: Errors that refuse the document without ending its composition.
        line: Where the document's content begins, counted from 1; 0 while there is none.
        lines: By the ``id`` of each collection in the value, the lines of its keys, or of its items
            by their number. Keys from a merge (``<<``) have none.
    """

    def __init__(self, *, subject: str, file: str, first_line: int) -> None:
        self.problems: list[Problem] = []
        self.line = 0
        self.lines: dict[int, dict[str, int]] = {}
        self._subject = subject
        self._file = file
        self._first_line = first_line
        self._open: list[_Frame] = []
        self._anchors: dict[str, tuple[object, int] | None] = {}  # None while still open
        self._aliased = 0
        self._root: object = None

    def compose(self, events: Iterator[yaml.Event]) -> object:
        """The value of the only document in ``events``; None if it is empty.

        Raises:
            InputError: The document can't be read to its end.
        """
        documents = 0
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.MappingStartEvent):
                self._begin({}, event)
            elif isinstance(event, yaml.SequenceStartEvent):
                self._begin([], event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end()
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:  # behind a line break that only YAML 1.1 knows, such as U+2028
                    self._stop(event, "a second document begins here", "put '---' on its own line")
        return self._root

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        value: object = event.value
        tag = event.tag
        if tag is None:
            if event.implicit[0]:
                if event.value == _MERGE and self._expects_key():
                    self._open[-1].key = _MERGE_KEY
                    return
                value = plain_scalar(event.value)
        elif tag not in _STRING_TAGS:
            value = self._tagged(event, tag)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        self._place(value, 1, self._line(event))

    def _tagged(self, event: yaml.ScalarEvent, tag: str) -> object:
        wanted = _TYPE_OF_TAG.get(tag)
        if wanted is None:
            self._unknown_tag(event, tag)
            return None
        value = plain_scalar(event.value)
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            # Don't quote the value: it may be a Secret's.
            found = f"a value tagged !!{tag.removeprefix(_PREFIX)} is none"
            self._note(self._line(event), found, "correct the value, or the tag")
        return value

    def _begin(
        self,
        value: dict[str, object] | list[object],
        event: yaml.MappingStartEvent | yaml.SequenceStartEvent,
    ) -> None:
        if self._expects_key():
            self._stop(event, "a mapping's key is itself a collection", "use text as the key")
        if len(self._open) == DEEPEST_NESTING:
            self._stop(
                event,
                f"values are nested more than {DEEPEST_NESTING} deep",
                "no Kubernetes object needs that",
            )
        if event.tag is not None and event.tag not in _COLLECTION_TAGS[type(event)]:
            self._unknown_tag(event, event.tag)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        line = self._line(event)
        if not self.line:
            self.line = line
        self._open.append(_Frame(value, event.anchor, line))

    def _end(self) -> None:
        frame = self._open.pop()
        for source in frame.merged:  # the mapping's own keys win, then the earlier source
            if isinstance(frame.value, dict):
                frame.value.update({k: v for k, v in source.items() if k not in frame.value})
        if frame.anchor is not None:
            self._anchors[frame.anchor] = (frame.value, frame.size)
        self.lines[id(frame.value)] = frame.lines
        self._place(frame.value, frame.size, frame.line)

    def _alias(self, event: yaml.AliasEvent) -> None:
        if event.anchor not in self._anchors:
            self._stop(
                event,
                f"the alias *{event.anchor} has no anchor",
                f"set &{event.anchor} before it, or quote the text if no alias was meant",
            )
        anchored = self._anchors[event.anchor]
        if anchored is None:
            self._stop(event, f"the anchor &{event.anchor} contains itself", "write the value out")
        value, size = anchored
        self._aliased += size
        if self._aliased > MOST_ALIASED_VALUES:
            self._stop(
                event,
                f"aliases multiply the document by more than {MOST_ALIASED_VALUES} values",
                "write the values out",
            )
        self._place(value, size, self._line(event))

    def _place(self, value: object, size: int, line: int) -> None:
        """Add a complete value, which begins on ``line``, to its collection."""
        if not self._open:
            self._root, self.line = value, line
            return
        frame = self._open[-1]
        frame.size += size
        if isinstance(frame.value, list):
            frame.lines[str(len(frame.value))] = line
            frame.value.append(value)
        elif frame.key is _NO_KEY:
            frame.key = self._new_key(frame, value, line)
        elif frame.key is _MERGE_KEY:
            frame.key = _NO_KEY
            self._merge(frame, value, line)
        else:
            if isinstance(frame.key, str):
                frame.value[frame.key] = value
            frame.key = _NO_KEY

    def _new_key(self, frame: _Frame, value: object, line: int) -> object:
        if not isinstance(value, str | int | float):
            found = f"a mapping's key is {described(value)}"
            self._note(line, found, "use text as the key")
            return _REFUSED_KEY
        key = key_text(value)
        if key in frame.lines:
            first = frame.lines[key]
            found = f"the key {described(key)} is given twice, first on line {first}"
            self._note(line, found, "keep one of them")
            return _REFUSED_KEY
        frame.lines[key] = line
        return key

    def _merge(self, frame: _Frame, value: object, line: int) -> None:
        for source in value if isinstance(value, list) else [value]:
            if isinstance(source, dict):
                frame.merged.append(source)
            else:
                found = f"<< merges {described(source)}"
                self._note(line, found, "merge a mapping, or a list of mappings")

    def _expects_key(self) -> bool:
        if not self._open:
            return False
        frame = self._open[-1]
        return frame.key is _NO_KEY and isinstance(frame.value, dict)

    def _unknown_tag(self, event: yaml.NodeEvent, tag: str) -> None:
        shown = tag.replace(_PREFIX, "!!", 1)
        found = f"the tag {described(shown)} is unknown"
        self._note(self._line(event), found, "Kubernetes manifests need no tags")

    def _line(self, event: yaml.Event) -> int:
        mark = event.start_mark
        return self._first_line + (mark.line if mark else 0)

    def _problem(self, line: int, found: str, wanted: str) -> Problem:
        where = Location(self._file, line)
        return Problem(subject=self._subject, path="", found=found, wanted=wanted, location=where)

    def _note(self, line: int, found: str, wanted: str) -> None:
        self.problems.append(self._problem(line, found, wanted))

    def _stop(self, event: yaml.Event, found: str, wanted: str) -> NoReturn:
        raise InputError([*self.problems, self._problem(self._line(event), found, wanted)])


def plain_scalar(text: str) -> str | int | float | bool | None:
    """The value of an unquoted, untagged scalar, by Kubernetes' own dialect of YAML.

    ``kubectl`` and the API server read YAML through sigs.k8s.io/yaml: YAML 1.1 booleans (``yes``,
    ``on``, ``y``), YAML 1.1 octals, 64-bit integers that overflow to floats, ``1e3`` as a number,
    but neither sexagesimals (``12:30``) nor timestamps. The value becomes JSON, so mapping keys are
    strings. troth reads the same, so that a file means here what it means in a cluster.
    """
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
    except ValueError:  # 08 and 09 are not octal; they are read as floats
        return None


def key_text(value: str | float) -> str:
    """The JSON key for a scalar mapping key; a boolean becomes its word."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value).removesuffix(".0")
