"""How commands speak: reports to standard output, all else to standard error."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.segment import Segment

from troth.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType

_ACTING = (
    *(code for code in range(0x20) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),  # DEL and C1
    *range(0x202A, 0x202F),  # the controls of text direction (UAX #9)
    *range(0x2066, 0x206A),
)
# Left out, not replaced: rich has counted them as taking no room.
_WITHOUT: dict[int, None] = dict.fromkeys(_ACTING)


class SafeConsole(Console):
    """A console on which text from elsewhere can act on nothing: what it shows is only shown.

    Names, logs and errors come from manifests, pods and other machines; a terminal obeys escape
    sequences in them.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does, without the characters that a terminal would act on."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(segment.text.translate(_WITHOUT), segment.style)


out = SafeConsole(highlight=False, soft_wrap=False)
"""Reports; without colours, and never wrapped at 80 columns, when piped."""

err = SafeConsole(stderr=True, highlight=False)
"""Progress and complaints."""

_REPORT_COLUMNS = 100
_PIPED_COLUMNS = 10_000
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


def print_lines(lines: Iterable[str]) -> None:
    """Lines for a program, as they are."""
    sys.stdout.writelines(f"{line}\n" for line in lines)
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


def counted(number: int, what: str) -> str:
    """A number of things, such as ``2 Gateways``; ``what`` is an English noun or a kind."""
    if number == 1 or what == "Endpoints":  # Kubernetes' own plural
        return f"{number} {what}"
    if what.endswith("y") and not what.endswith(("ay", "ey", "oy", "uy")):
        return f"{number} {what[:-1]}ies"
    return f"{number} {what}{'es' if what.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def moment(when: datetime) -> str:
    """A time of day where it was today, and the date with it otherwise; local."""
    local = when.astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def coloured(mode: Mode) -> str:
    """A mode as markup."""
    return f"[{_MODE_COLOURS[mode]}]{mode}[/]"
