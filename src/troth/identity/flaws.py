"""How this package says what is wrong: flaws are gathered as found, then refused at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from troth.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN_CHARACTERS = 80


class Flaw(NamedTuple):
    """One thing wrong with one field; `refuse` names the object it belongs to."""

    found: str
    wanted: str
    path: str = ""


def refusal(subject: str, *flaws: Flaw) -> InputError:
    """The error that lists ``flaws``, to be raised where nothing can go on."""
    return InputError(
        Problem(subject=subject, path=flaw.path, found=flaw.found, wanted=flaw.wanted)
        for flaw in flaws
    )


def refuse(subject: str, flaws: Iterable[Flaw]) -> None:
    """Return if there are no flaws.

    Raises:
        InputError: There are some; each is one of its problems.
    """
    if found := tuple(flaws):
        raise refusal(subject, *found)


def flaws_of(error: InputError, path: str) -> Iterable[Flaw]:
    """What is wrong with a part, told as flaws of the field ``path`` of the whole."""
    for problem in error.problems:
        yield Flaw(f"{problem.subject}: {problem.found}", problem.wanted, path)


def shown(text: str) -> str:
    """Hostile text fit for a message: quoted, escaped, bounded."""
    if len(text) > _SHOWN_CHARACTERS:
        return f"{text[:_SHOWN_CHARACTERS]!a}..."
    return ascii(text)
