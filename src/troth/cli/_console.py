"""How commands speak: reports to standard output, all else to standard error."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from troth.policy import Mode

if TYPE_CHECKING:
    from rich.console import RenderableType

out = Console(highlight=False, soft_wrap=False)
"""Reports; without colours, and never wrapped at 80 columns, when piped."""

err = Console(stderr=True, highlight=False)
"""Progress and complaints."""

_REPORT_COLUMNS = 100
_PIPED_COLUMNS = 400
if not out.is_terminal:
    out.width = _PIPED_COLUMNS


_MODE_COLOURS = {Mode.STRICT: "green", Mode.PERMISSIVE: "yellow", Mode.DISABLE: "red"}


class Output(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="Report as text for people or as stable JSON.")
]


def print_json(value: object, *, indent: int = 2) -> None:
    """One JSON document; ``indent`` 0 puts it on one line, for streams."""
    encoded = msgspec.json.encode(value)
    if indent:
        encoded = msgspec.json.format(encoded, indent=indent)
    sys.stdout.buffer.write(encoded + b"\n")
    sys.stdout.flush()


def print_report(part: RenderableType, *, columns: int = _REPORT_COLUMNS) -> None:
    """A report for people, without trailing spaces when piped.

    Args:
        part: The report.
        columns: How wide it is at most; it is never wider than the terminal.
    """
    width = min(out.width, columns)
    if out.is_terminal:
        out.print(part, width=width)
        return
    with out.capture() as captured:
        out.print(part, width=width)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


def print_tables(part: RenderableType) -> None:
    """A report of tables that are as wide as they need, if the terminal has the room."""
    print_report(part, columns=out.width)


def table(*columns: str) -> Table:
    """An aligned table without lines, as kubectl prints them."""
    result = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        result.add_column(column, overflow="fold")
    return result


def moment(when: datetime) -> str:
    """A time of day where it was today, and the date with it otherwise; local."""
    local = when.astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def coloured(mode: Mode) -> str:
    """A mode as markup."""
    return f"[{_MODE_COLOURS[mode]}]{mode}[/]"
