"""The commands in the documents print what stands below them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.e2e.harness import TROTH, Host, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/plan.md", "docs/troubleshoot.md")
_BLOCKS = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OF_ITS_OWN = frozenset({"make demo", ". .venv/bin/activate"})
"""Commands that prepare what the tests run in, or are tested by themselves."""
_CHANGING = (
    (re.compile(r"\d\d:\d\d:\d\d(?:\.\d+)?"), "TIME"),
    (re.compile(r"\b\d+\.\d+ s\b"), "N s"),
    # A refused client sees the end or the reset, whichever comes first.
    (re.compile(r"curl: \((?:52|56)\) .*"), "curl: refused"),
)


class Command(msgspec.Struct, frozen=True):
    """A command of a document, and what it says that it prints."""

    line: str
    output: str


def blocks() -> Iterator[tuple[str, tuple[Command, ...]]]:
    """The console sessions of all documents, each with the place where it stands."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text("utf-8")
        for match in _BLOCKS.finditer(text):
            number = text.count("\n", 0, match.start()) + 1
            parts = re.split(r"^\$ (.*)\n", match[1], flags=re.MULTILINE)[1:]
            session = zip(parts[::2], parts[1::2], strict=True)
            commands = tuple(
                Command(line, output) for line, output in session if line not in _OF_ITS_OWN
            )
            if commands:
                yield f"{document}:{number}", commands


def without_chance(text: str) -> str:
    """An output without what is another one each time."""
    for pattern, instead in _CHANGING:
        text = pattern.sub(instead, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.mark.parametrize(
    "commands", [pytest.param(commands, id=place) for place, commands in blocks()]
)
def test_a_session_in_a_document_goes_as_it_says(
    host: Host, tmp_path: Path, commands: tuple[Command, ...]
) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(TROTH).parent}:{os.environ['PATH']}",
        "TROTH_STATE_DIR": str(tmp_path / "state"),
    }

    def printed(line: str) -> str:
        # The examples are named from the root of the repository.
        shell = ("bash", "-c", 'cd "$0" && eval "$1"', str(ROOT), line)
        result = host.run(*shell, check=False, env=environment)
        return without_chance(result.stdout + result.stderr)

    try:
        for command in commands:
            expected = without_chance(command.output)
            if command.line in {"troth events", "troth why"}:  # they hear of it a moment later
                eventually(
                    lambda c=command, e=expected: printed(c.line) == e,  # type: ignore[misc]
                    seconds=10,
                    what=f"what {command.line} prints",
                )
            else:
                assert printed(command.line) == expected
    finally:
        host.run(TROTH, "down", "--now", check=False, env=environment)
