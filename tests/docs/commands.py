"""The command reference, made from the commands' own flags and help: a page and manual pages.

``python -m tests.docs.commands`` writes docs/commands.md; with a directory it writes a manual page
for each command (man-pages(7)) there instead.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from troth import __version__
from troth.cli.app import PLUGIN_COMMANDS, command_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_INTRODUCTION = """\
# Commands

Made from the commands themselves by `make reference`; `troth COMMAND --help` says the same. Exit
codes: 0 yes, 1 no or refused, 2 wrong use. Commands that report take `-o json`
([json.md](json.md)).
"""
_WIDTH = 1000  # no line of theirs is broken, whatever the terminal
_LISTS = re.compile(r"<list\[(\w+)\]>")


class Command(msgspec.Struct, frozen=True):
    """One command: what it is called with, what it does, and what each word means.

    Attributes:
        name: With its group, such as ``troth ca status``.
        usage: How it is called.
        text: Its help; paragraphs are apart by an empty line.
        words: Arguments and options, each with its help.
        as_plugin: Whether ``kubectl troth`` has it, too.
    """

    name: str
    usage: str
    text: str
    words: tuple[tuple[str, str], ...]
    as_plugin: bool

    @property
    def paragraphs(self) -> list[str]:
        """The help, each paragraph in one line."""
        return [" ".join(part.split()) for part in self.text.split("\n\n")]


def commands() -> Iterator[Command]:
    """All commands, in the order in which ``troth --help`` lists them."""
    tree = typer.main.get_command(command_tree())
    for name, command in tree.commands.items():  # type: ignore[attr-defined]  # it's a group
        for path, each in _leaves(f"troth {name}", command):
            context = typer.Context(
                each, info_name=path, terminal_width=_WIDTH, max_content_width=_WIDTH
            )
            records = (parameter.get_help_record(context) for parameter in each.params)
            yield Command(
                path,
                each.get_usage(context).removeprefix("Usage: "),
                each.help or "",
                tuple((_LISTS.sub("", word).strip(), said) for word, said in filter(None, records)),
                name in PLUGIN_COMMANDS,
            )


def _leaves(path: str, command: object) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    if isinstance(command, typer.core.TyperGroup):
        for name, each in command.commands.items():
            yield from _leaves(f"{path} {name}", each)
    elif isinstance(command, typer.core.TyperCommand):
        yield path, command


def page() -> str:
    """docs/commands.md."""
    return "\n".join((_INTRODUCTION, *map(_section, commands())))


def _section(command: Command) -> str:
    lines = [f"## {command.name}", "", "```", command.usage, "```", ""]
    for paragraph in command.paragraphs:
        lines += [_literal(paragraph), ""]
    if command.as_plugin:
        lines += [f"Also as `kubectl {command.name}`.", ""]
    if command.words:
        lines += ["| | |", "|---|---|"]
        lines += [f"| {_code(word)} | {_literal(said)} |" for word, said in command.words]
        lines.append("")
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`"


def _literal(text: str) -> str:
    """Help as Markdown: it uses backquotes itself, and no other markup."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


def manual(command: Command) -> str:
    """A manual page of section 1."""
    title = command.name.replace(" ", "-")
    first, *rest = command.paragraphs
    lines = [
        f'.TH "{title.upper()}" 1 "" "troth {__version__}" "troth"',
        ".SH NAME",
        _roff(f"{title} - {first.rstrip('.')}"),
        ".SH SYNOPSIS",
        _roff(command.usage),
        ".SH DESCRIPTION",
        _roff(first),
    ]
    for paragraph in rest:
        lines += [".PP", _roff(paragraph)]
    if command.words:
        lines.append(".SH OPTIONS")
    for word, said in command.words:
        lines += [".TP", rf"\fB{_roff(word)}\fR", _roff(said)]
    lines += [".SH EXIT STATUS", "0 yes; 1 no or refused; 2 wrong use."]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return rf"\&{escaped}" if escaped.startswith(".") else escaped


def main(directory: str = "") -> None:
    """The program."""
    if not directory:
        PAGE.write_text(page(), "utf-8")
        return
    Path(directory).mkdir(parents=True, exist_ok=True)
    for command in commands():
        path = Path(directory) / f"{command.name.replace(' ', '-')}.1"
        path.write_text(manual(command), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
