"""Typed access to the fields of a decoded object of unknown shape, reporting every problem.

The object is untrusted: any value may have any type that a YAML or JSON decoder yields. Reading
never stops: an invalid field is reported with its path and read as its default, so that one pass
finds all problems. A null is an absent field, as in the Kubernetes API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from troth.errors import Problem, Severity
from troth.syntax import (
    LABEL_VALUE,
    Rule,
    annotation_key_flaw,
    described,
    field_path,
    key_path,
    label_key_flaw,
    nearest,
    plain_address,
    string_wanted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from enum import StrEnum

    from troth.errors import Location

    Choice = TypeVar("Choice", bound=StrEnum)

_LARGEST = 2**31 - 1  # the API's int32
_MOST_ANNOTATED = 256 * 1024
_MOST_LISTED = 6

OBJECT_META = (
    *("name", "namespace", "labels", "annotations", "clusterName", "creationTimestamp"),
    *("deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName"),
    *("generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid"),
)
"""The fields of meta/v1 ObjectMeta."""

UNNAMED = "generateName makes another object each time, and kubectl apply refuses it: give a name"
"""The remedy for ``metadata.generateName`` instead of a name."""


class Report:
    """Collects the problems of one object.

    Args:
        subject: The object's name in problems.
        place: Returns the location of a path's field, if known.

    Attributes:
        errors: How many problems refuse the object.
    """

    def __init__(
        self, subject: str, place: Callable[[str], Location | None] = lambda _: None
    ) -> None:
        self._subject = subject
        self._place = place
        self._problems: dict[Problem, None] = {}
        self.errors = 0

    def error(self, path: str, found: str, wanted: str) -> None:
        """Report a problem that refuses the object."""
        self._add(path, found, wanted, Severity.ERROR)

    def warn(self, path: str, found: str, wanted: str) -> None:
        """Report a problem that doesn't refuse the object."""
        self._add(path, found, wanted, Severity.WARNING)

    def _add(self, path: str, found: str, wanted: str, severity: Severity) -> None:
        """Add a problem with the location of its field, once, however often it is found."""
        noted = Problem(
            subject=self._subject,
            path=path,
            found=found,
            wanted=wanted,
            severity=severity,
            location=self._place(path),
        )
        if noted not in self._problems:
            self._problems[noted] = None
            self.errors += severity is Severity.ERROR

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems: by line if known, else in the order of reading."""
        return tuple(
            sorted(self._problems, key=lambda each: each.location.line if each.location else 0)
        )


class Fields:
    """The fields of one mapping.

    Args:
        value: The decoded value; if it isn't a mapping, that is reported and it has no fields.
        path: Its path in the object.
        report: Collects its problems.
        example: An example of the mapping, for the problem if it isn't one.

    Attributes:
        path: The argument.
        report: The argument.
        entries: The mapping's entries, as decoded.
    """

    def __init__(self, value: object, path: str, report: Report, example: str = "") -> None:
        self.path = path
        self.report = report
        self.entries: Mapping[object, object] = {}
        if isinstance(value, Mapping):
            self.entries = value
        elif value is not None:
            such = f", such as {{{example}}}" if example else ""
            report.error(path, f"is {described(value)}", f"write a mapping{such}")

    @property
    def name(self) -> str:
        """The last step of the path, such as ``env[2]``."""
        return self.path.rpartition(".")[2]

    def __contains__(self, name: str) -> bool:
        return self.entries.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.entries if isinstance(name, str))

    def at(self, name: str) -> str:
        """The path of a field."""
        return field_path(self.path, name)

    def value(self, name: str) -> object:
        """A field as decoded; None if absent."""
        return self.entries.get(name)

    def error(self, name: str, found: str, wanted: str) -> None:
        """Report an error in a field."""
        self.report.error(self.at(name), found, wanted)

    def warn(self, name: str, found: str, wanted: str) -> None:
        """Report a warning about a field."""
        self.report.warn(self.at(name), found, wanted)

    def missing(self, name: str, wanted: str) -> None:
        """Report that a required field is missing."""
        self.error(name, "is missing", wanted)

    def only(self, known: Iterable[str]) -> None:
        """Warn about fields that the API doesn't have; it would drop them."""
        there = tuple(known)
        for name in self.entries:
            if name not in there:
                wanted = nearest(name, there) if isinstance(name, str) else ""
                path, found = field_path(self.path, name), "is an unknown field and has no effect"
                self.report.warn(path, found, wanted or _instead(there))

    def string(self, name: str, default: str = "", *, rule: Rule | None = None) -> str:
        """A text field, which must match ``rule`` if present."""
        value = self.entries.get(name)
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
        """A required text field, which must not be empty."""
        if self.entries.get(name) in (None, ""):
            self.missing(name, wanted)
            return ""
        return self.string(name, rule=rule)

    def choice(self, name: str, choices: type[Choice], default: Choice) -> Choice:
        """A text field with a value of an enumeration."""
        value = self.string(name, default)
        for word in choices:
            if word == value:
                return word
        words = ", ".join(choices)
        self.error(name, f"is {described(value)}", f"write one of {words}")
        return default

    def integer(self, name: str, default: int, *, low: int = 0, high: int = _LARGEST) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self.entries.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.error(name, f"is {described(value)}", f"write a whole number, {low} to {high}")
            return default
        return value

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """A field that is true or false."""
        value = self.entries.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.error(name, f"is {described(value)}", "write true or false")
            return default
        return value

    def fields(self, name: str, known: Iterable[str] = (), *, example: str = "") -> Fields:
        """A field that is a mapping; without fields if absent.

        Args:
            name: The field's name.
            known: The fields that the mapping may have (see `only`); empty for any.
            example: See `Fields`.
        """
        found = Fields(self.entries.get(name), self.at(name), self.report, example)
        if known:
            found.only(known)
        return found

    def items(self, name: str) -> list[object]:
        """A list as decoded; empty if absent."""
        value = self.entries.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.error(name, f"is {described(value)}", "write a list")
            return []
        return value

    def each(self, name: str) -> list[Fields]:
        """A list of mappings; other items are reported and left out."""
        found = []
        for index, item in enumerate(self.items(name)):
            path = f"{self.at(name)}[{index}]"
            if isinstance(item, Mapping):
                found.append(Fields(item, path, self.report))
            else:
                self.report.error(path, f"is {described(item)}", "write a mapping")
        return found

    def plain_address(self, path: str, text: str) -> str:
        """An IP as kube-proxy reads it, with a warning if it isn't in canonical form."""
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
        """A mapping of texts, such as annotations; problems don't quote confidential values."""
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
        """A mapping of annotations: keys like labels', and any texts, up to a total size."""
        annotations = self.string_map(name)
        for key in annotations:
            if flaw := annotation_key_flaw(key):
                self.error(name, *flaw)
        size = sum(len(key.encode()) + len(text.encode()) for key, text in annotations.items())
        if size > _MOST_ANNOTATED:
            self.error(name, f"has {size} bytes", f"keep all of them below {_MOST_ANNOTATED}")
        return annotations


def _instead(known: tuple[str, ...]) -> str:
    """The remedy for a field that resembles none of the known ones."""
    if len(known) == 1:
        return f"the only field here is {known[0]}"
    return f"the fields here are {', '.join(known)}" if len(known) <= _MOST_LISTED else "remove it"
