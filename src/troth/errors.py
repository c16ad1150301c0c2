"""What can go wrong, split by whose fault it is.

`TrothError` is only for catching. Its subclasses are bad input (the user can correct it), a peer or
API that misbehaves, and an environment that lacks something. Bugs stay ordinary Python errors.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


OURSELVES = "troth"
"""The peer in a `PeerError` that the mesh itself causes."""


class Location(msgspec.Struct, frozen=True, order=True):
    """The place of a document or field: a file (or ``<stdin>``) and a line counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Severity(StrEnum):
    """Whether a problem refuses its object or is only a warning."""

    ERROR = "error"
    WARNING = "warning"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with one field of one object.

    Attributes:
        subject: The object as ``KIND NAMESPACE/NAME`` (or the best description if it has no name).
        path: The field's path in Kubernetes' form, such as ``spec.portLevelMtls[8080].mode``; empty
            for the object as a whole.
        found: What is wrong, in one clause.
        wanted: What would be right, in one clause.
        severity: An error refuses the object; a warning does not.
        location: The document's place, if it came from a file.
    """

    subject: str
    path: str
    found: str
    wanted: str
    severity: Severity = Severity.ERROR
    location: Location | None = None

    @classmethod
    def warning(
        cls, subject: str, path: str, found: str, wanted: str, *, location: Location | None = None
    ) -> Self:
        """A problem that doesn't refuse its object."""
        return cls(
            subject=subject,
            path=path,
            found=found,
            wanted=wanted,
            severity=Severity.WARNING,
            location=location,
        )

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        path = f"{self.path}: " if self.path else ""
        return f"{where}{self.subject}: {path}{self.found}; {self.wanted}"


class TrothError(Exception):
    """Any error of troth's own; never raised itself."""


class InputError(TrothError):
    """A manifest, flag, certificate or request is not acceptable; every problem is listed.

    Attributes:
        problems: All of them, in document order.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Flaw(NamedTuple):
    """One thing wrong with one field; `refuse` adds the object."""

    found: str
    wanted: str
    path: str = ""


def refusal(subject: str, *flaws: Flaw) -> InputError:
    """The error that lists ``flaws``, to raise when processing can't continue."""
    return InputError(
        Problem(subject=subject, path=flaw.path, found=flaw.found, wanted=flaw.wanted)
        for flaw in flaws
    )


def refuse(subject: str, flaws: Iterable[Flaw]) -> None:
    """Return if there are no flaws.

    Raises:
        InputError: There are some; each becomes one of its problems.
    """
    if found := tuple(flaws):
        raise refusal(subject, *found)


def flaws_of(error: InputError, path: str) -> Iterable[Flaw]:
    """The problems of a part, as flaws of the field ``path`` of the whole."""
    for problem in error.problems:
        yield Flaw(f"{problem.subject}: {problem.found}", problem.wanted, path)


class PeerError(TrothError):
    """Something we talk to (Envoy, an API, a running mesh) refused or broke the protocol.

    Attributes:
        peer: Its name; `OURSELVES` for the mesh itself, which the message then doesn't name.
        reason: Its error, in its own words if there are any.
        remedy: The next step for the reader; may be empty.
    """

    def __init__(self, peer: str, reason: str, remedy: str = "") -> None:
        self.peer = peer
        self.reason = reason
        self.remedy = remedy
        who = "" if peer == OURSELVES else f"{peer}: "
        super().__init__(f"{who}{reason}" + (f"; {remedy}" if remedy else ""))


class EnvironmentLackError(TrothError):
    """The machine or cluster lacks something troth needs.

    Attributes:
        lack: What is missing or not permitted.
        remedy: How to get it.
    """

    def __init__(self, lack: str, remedy: str) -> None:
        self.lack = lack
        self.remedy = remedy
        super().__init__(f"{lack}; {remedy}")
