"""What a narrow terminal shows of a text, compared with the whole of it."""

from __future__ import annotations

import io
import re
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTHS = (60, 80, 100, 200)
FULL = 1000

_HEADINGS = re.compile(r"^ *[A-Z][A-Z0-9() -]*   +[A-Z0-9() -]+$|^.*\n *─+$", re.MULTILINE)


def lost(full: str, shown: str) -> list[str]:
    """The words of a text that another form of it lacks, or has less often.

    A word may be broken between lines, and lines may be indented; a table's row may be lines, which
    need no headings of columns.
    """
    joined = "".join(shown.split()).casefold()
    words = Counter(word.casefold() for word in _HEADINGS.sub("", full).split())
    return [word for word, times in words.items() if joined.count(word) < times]


def drawn(part: RenderableType, width: int) -> str:
    """A part of a report as a terminal of that width shows it, without colours."""
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(part)
    return file.getvalue()


def assert_whole(part: RenderableType) -> None:
    """Nothing of it is lost, nor beyond the edge, in any width that people have."""
    full = drawn(part, FULL)
    for width in WIDTHS:
        shown = drawn(part, width)
        assert not lost(full, shown), f"lost at {width} columns:\n{shown}"
        assert max(map(len, shown.splitlines())) <= width, shown
