"""The command reference says what the commands say themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.docs.commands import PAGE, Command, main, manual, page

from troth.cli.app import COMMANDS

if TYPE_CHECKING:
    from pathlib import Path


def test_the_page_is_what_the_flags_make_of_it() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: make reference"


def test_every_command_has_its_section_and_its_manual_page(tmp_path: Path) -> None:
    main(str(tmp_path))
    manuals = {path.name for path in tmp_path.iterdir()}
    for name in COMMANDS:
        assert f"\n## troth {name}" in page()
        assert any(each.startswith(f"troth-{name}") for each in manuals)


def test_what_is_markup_to_markdown_or_roff_is_text() -> None:
    command = Command("troth x", "troth x", "A | B <c> it's\n\n.d -e \\f", (("-a", "x|y"),), True)
    assert r"\.d" not in manual(command)
    assert "\\&.d \\-e \\ef" in manual(command)
    assert r"A | B <c> it\(aqs" in manual(command)
