"""docs/conformance.md as cases: a manifest, what others make of it, and what troth does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"

_CASE = re.compile(
    r"^### (?P<title>.+?)\n\n```(?:yaml|json)\n(?P<manifest>.*?)```\n\n"
    r"\| API server \| troth, in files \| troth, in a cluster \|\n\|---\|---\|---\|\n"
    r"\| (?P<server>.*?) \| (?P<files>.*?) \| (?P<cluster>.*?) \|$",
    re.MULTILINE | re.DOTALL,
)


class Case(NamedTuple):
    """One manifest; a verdict is ``taken``, ``warned: `PATH` `` or ``refused: `PATH` ``."""

    title: str
    manifest: str
    server: str
    files: str
    cluster: str


def cases() -> list[Case]:
    """All of the page's, in order."""
    text = PAGE.read_text("utf-8")
    found = [Case(**match.groupdict()) for match in _CASE.finditer(text)]
    assert [each.title for each in found] == re.findall(r"^### (.+)$", text, re.MULTILINE)
    return found
