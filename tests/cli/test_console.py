"""What comes from elsewhere is shown on a terminal and does nothing to it."""

from __future__ import annotations

import io

import pytest
from rich.markup import escape

from troth.cli.console import SafeConsole, counted
from troth.rows import Rows


def shown(text: str, *, in_table: bool = False, coloured: bool = False) -> str:
    file = io.StringIO()
    colours = "standard" if coloured else None
    console = SafeConsole(file=file, force_terminal=True, color_system=colours, width=60)  # type: ignore[arg-type]  # one of the literals
    if in_table:
        rows = Rows("NAME")
        rows.add_row(escape(text))
        console.print(rows)
    else:
        console.print(f"[red]error:[/red] {escape(text)}")
    return file.getvalue()


@pytest.mark.parametrize("in_table", [False, True], ids=["line", "table"])
@pytest.mark.parametrize(
    "text",
    ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "a\rb", "\u202egnp.exe", "\x7f", "\u2066x"],
    ids=ascii,
)
def test_a_character_that_a_terminal_acts_on_is_left_out(text: str, *, in_table: bool) -> None:
    told = shown(text, in_table=in_table)
    assert {character for character in told if not character.isprintable()} == {"\n"}
    assert "".join(character for character in text if character.isprintable()) in told


def test_what_we_colour_ourselves_is_coloured() -> None:
    assert "\x1b[31merror:\x1b[0m" in shown("x", coloured=True)


def test_text_of_any_language_is_left_as_it_is() -> None:
    assert "żółć 漢字 עברית" in shown("żółć 漢字 עברית")


@pytest.mark.parametrize(
    ("kind", "plural"),
    [
        ("Service", "Services"),
        ("Gateway", "Gateways"),
        ("NetworkPolicy", "NetworkPolicies"),
        ("Ingress", "Ingresses"),
        ("Endpoints", "Endpoints"),
    ],
)
def test_a_kind_is_counted_in_its_plural(kind: str, plural: str) -> None:
    assert counted(1, kind) == f"1 {kind}"
    assert counted(2, kind) == f"2 {plural}"
