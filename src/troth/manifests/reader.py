"""Typed access to the fields of a decoded object of unknown shape, noting every problem.

Reading never stops: a field that is wrong is noted with its path and line and read as its default,
so that one pass finds all that is wrong. A null is an absent field, as in the Kubernetes API.
"""

from __future__ import annotations

import difflib
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.errors import Location, Problem, Severity
from troth.syntax import (
    LABEL_VALUE,
    Rule,
    annotation_key_flaw,
    described,
    field_path,
    key_path,
    label_key_flaw,
    plain_address,
    string_wanted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from enum import StrEnum

    from troth.manifests.yaml import Document

    Choice = TypeVar("Choice", bound=StrEnum)

_LARGEST = 2**31 - 1  # the API's int32
_MOST_ANNOTATED = 256 * 1024


class Report:
    """Collects the problems of one object.

    Attributes:
        subject: The object as problems name it.
        errors: How many problems refuse the object.
    """

    def __init__(self, subject: str, document: Document) -> None:
        self.subject = subject
        self._problems: dict[Problem, int] = {}
        self.errors = 0
        self._document = document

    def error(self, path: str, found: str, wanted: str) -> None:
        """Note what refuses the object."""
        self.add(Problem(subject=self.subject, path=path, found=found, wanted=wanted))

    def warn(self, path: str, found: str, wanted: str) -> None:
        """Note what only deserves a look."""
        severity = Severity.WARNING
        self.add(
            Problem(subject=self.subject, path=path, found=found, wanted=wanted, severity=severity)
        )

    def add(self, problem: Problem) -> None:
        """Note ``problem``, at the line of its field; once, however often it is found."""
        line = self._document.line_of(problem.path)
        where = Location(self._document.location.file, line)
        noted = msgspec.structs.replace(problem, location=where)
        if noted in self._problems:
            return
        self._problems[noted] = line
        self.errors += problem.severity is Severity.ERROR

    def by_line(self) -> list[Problem]:
        """All that was noted, in the document's order."""
        return [problem for problem, _ in sorted(self._problems.items(), key=itemgetter(1))]


class Fields:
    """The fields of one mapping.

    Attributes:
        path: Where it stands in the object.
        report: Where its problems go.
    """

    def __init__(self, value: object, path: str, report: Report) -> None:
        self.path = path
        self.report = report
        self._values: dict[str, object] = {}
        if isinstance(value, dict):
            self._values = value
        elif value is not None:
            report.error(path, f"is {described(value)}", "write a mapping")

    @property
    def name(self) -> str:
        """The last step of the path, such as ``env[2]``."""
        return self.path.rpartition(".")[2]

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def at(self, name: str) -> str:
        """The path of a field."""
        return field_path(self.path, name)

    def value(self, name: str) -> object:
        """A field as it was decoded; None when absent."""
        return self._values.get(name)

    def error(self, name: str, found: str, wanted: str) -> None:
        """Note an error of a field."""
        self.report.error(self.at(name), found, wanted)

    def warn(self, name: str, found: str, wanted: str) -> None:
        """Note a warning about a field."""
        self.report.warn(self.at(name), found, wanted)

    def missing(self, name: str, wanted: str) -> None:
        """Note that a field must be there."""
        self.error(name, "is missing", wanted)

    def only(self, known: Iterable[str]) -> None:
        """Warn of fields the API doesn't have; it would drop them."""
        known = frozenset(known)
        for name in self._values:
            if name not in known:
                near = difflib.get_close_matches(name[:64], known, n=1)
                wanted = f"did you mean {near[0]}?" if near else "remove it"
                self.warn(name, "is an unknown field and has no effect", wanted)

    def string(self, name: str, default: str = "", *, rule: Rule | None = None) -> str:
        """A text field, which must keep ``rule`` when it is there."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self.error(name, f"is {described(value)}", string_wanted(value))
            return default
        if rule and value and (flaw := rule.flaw(value)):
            self.error(name, *flaw)
            return default
        return value

    def needed(self, name: str, wanted: str, *, rule: Rule | None = None) -> str:
        """A text field that must be there and not be empty."""
        if self._values.get(name) in (None, ""):
            self.missing(name, wanted)
            return ""
        return self.string(name, rule=rule)

    def choice(self, name: str, choices: type[Choice], default: Choice) -> Choice:
        """A text field that is one word of an enumeration."""
        value = self.string(name, default)
        for word in choices:
            if word == value:
                return word
        words = ", ".join(choices)
        self.error(name, f"is {described(value)}", f"write one of {words}")
        return default

    def integer(self, name: str, default: int, *, low: int = 0, high: int = _LARGEST) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.error(name, f"is {described(value)}", f"write a whole number, {low} to {high}")
            return default
        return value

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """A field that is true or false."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.error(name, f"is {described(value)}", "write true or false")
            return default
        return value

    def fields(self, name: str) -> Fields:
        """A mapping with fields of its own; without any when absent."""
        return Fields(self._values.get(name), self.at(name), self.report)

    def items(self, name: str) -> list[object]:
        """A list as it was decoded; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.error(name, f"is {described(value)}", "write a list")
            return []
        return value

    def each(self, name: str) -> list[Fields]:
        """A list of mappings; items that are none are noted and left out."""
        found = []
        for index, item in enumerate(self.items(name)):
            path = f"{self.at(name)}[{index}]"
            if isinstance(item, dict):
                found.append(Fields(item, path, self.report))
            else:
                self.report.error(path, f"is {described(item)}", "write a mapping")
        return found

    def plain_address(self, path: str, text: str) -> str:
        """An IP as kube-proxy reads it, with a warning where it is written in another form."""
        plain = plain_address(text)
        if plain != text:
            self.report.warn(path, f"is {described(text)}, read as {plain}", f"write {plain}")
        return plain

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        texts = []
        for index, item in enumerate(self.items(name)):
            if isinstance(item, str):
                texts.append(item)
            else:
                path = f"{self.at(name)}[{index}]"
                self.report.error(path, f"is {described(item)}", string_wanted(item))
        return tuple(texts)

    def string_map(self, name: str, *, confidential: bool = False) -> dict[str, str]:
        """A mapping of texts, such as annotations; confidential values don't get into problems."""
        entries: dict[str, str] = {}
        fields = self.fields(name)
        for key in fields:
            value = fields.value(key)
            if isinstance(value, str):
                entries[key] = value
            elif value is None:
                entries[key] = ""
            else:
                path = key_path(fields.path, key)
                found = "is no string" if confidential else f"is {described(value)}"
                self.report.error(path, found, string_wanted(value))
        return entries

    def labels(self, name: str) -> dict[str, str]:
        """A mapping of labels, by Kubernetes' rules for their keys and values."""
        labels = self.string_map(name)
        for key, value in labels.items():
            if flaw := label_key_flaw(key):
                self.error(name, *flaw)
            if flaw := LABEL_VALUE.flaw(value):
                self.report.error(key_path(self.at(name), key), *flaw)
        return labels

    def annotations(self, name: str) -> dict[str, str]:
        """A mapping of annotations: labels' keys, and any texts, of which there may be so much."""
        annotations = self.string_map(name)
        for key in annotations:
            if flaw := annotation_key_flaw(key):
                self.error(name, *flaw)
        size = sum(len(key.encode()) + len(text.encode()) for key, text in annotations.items())
        if size > _MOST_ANNOTATED:
            self.error(name, f"has {size} bytes", f"keep all of them below {_MOST_ANNOTATED}")
        return annotations
