"""Reading a decoded document of unknown shape, with every problem written down on the way."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from troth._syntax import described, field_path
from troth.errors import Problem, Severity

if TYPE_CHECKING:
    from troth.errors import Location

Decoded: TypeAlias = Mapping[object, object]


class Shape(NamedTuple):
    """What a mapping may hold.

    Attributes:
        fields: The fields it has; empty for a map with free keys.
        example: What to write, shown when something else stands there.
    """

    fields: tuple[str, ...]
    example: str


class Reader:
    """Collects the problems of one document.

    Attributes:
        problems: All that was written down, in the order of reading.
    """

    def __init__(self, subject: str, location: Location | None) -> None:
        self._subject = subject
        self._location = location
        self.problems: list[Problem] = []

    @property
    def errors(self) -> int:
        """How many of the problems refuse the document."""
        return sum(problem.severity is Severity.ERROR for problem in self.problems)

    def refuse(self, path: str, found: str, wanted: str) -> None:
        """Write down an error."""
        self._add(path, found, wanted, Severity.ERROR)

    def warn(self, path: str, found: str, wanted: str) -> None:
        """Write down a warning."""
        self._add(path, found, wanted, Severity.WARNING)

    def _add(self, path: str, found: str, wanted: str, severity: Severity) -> None:
        self.problems.append(
            Problem(
                subject=self._subject,
                path=path,
                found=found,
                wanted=wanted,
                severity=severity,
                location=self._location,
            )
        )

    def mapping(self, value: object, path: str, shape: Shape) -> Decoded:
        """The mapping at ``path``; empty when it is missing, null or (refused) something else.

        Fields it doesn't have are dropped with a warning, as the Kubernetes API does.
        """
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            found = f"is {described(value)}"
            self.refuse(path, found, f"write a mapping, such as {{{shape.example}}}")
            return {}
        for field in value if shape.fields else ():
            if field not in shape.fields:
                self.warn(
                    field_path(path, field),
                    "is an unknown field and has no effect",
                    _nearest_field(field, shape.fields),
                )
        return value


def _nearest_field(field: object, fields: tuple[str, ...]) -> str:
    if isinstance(field, str):
        spellings = {known.lower(): known for known in fields}
        typed = field[:64].lower().replace("_", "").replace("-", "")
        for spelling in difflib.get_close_matches(typed, spellings, n=1, cutoff=0.7):
            return f"did you mean {spellings[spelling]}?"
    if len(fields) == 1:
        return f"the only field here is {fields[0]}"
    return f"the fields here are {', '.join(fields)}"
