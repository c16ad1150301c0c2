"""Tables that lose nothing: if a terminal is too narrow for one, rows become lines.

rich crops cells that don't fit, and narrow columns are unreadable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_GAP = 3
_LEAST_FOR_LAST = 24
"""The minimum width of the last column, the only one that wraps."""
_SHORT = 16
"""Cells up to this length share a line if rows are lines."""


class Rows:
    """Aligned columns without rules, as in kubectl; a rich renderable.

    If the terminal is too narrow, the last column wraps; if that isn't enough, each row becomes
    several lines: its first cell, and below it the others, each with the name of its column.

    Args:
        columns: Their headings; an empty one has no name in either form.
        header: Show the headings above the columns.
    """

    def __init__(self, *columns: str, header: bool = True) -> None:
        self._columns = columns
        self._header = header
        self._rows: list[tuple[Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row; strings are rich markup. An empty first cell continues the row above."""
        texts = [Text.from_markup(cell) if isinstance(cell, str) else cell for cell in cells]
        missing = len(self._columns) - len(texts)
        self._rows.append((*texts, *(Text() for _ in range(missing))))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """As wide as the columns are, or as the terminal is."""
        widest = sum(self._widths()) + _GAP * (len(self._columns) - 1)
        return Measurement(min(1, options.max_width), min(widest, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the form that fits."""
        *others, last = self._widths()
        least = sum(others) + _GAP * len(others) + min(last, _LEAST_FOR_LAST)
        if least <= options.max_width:
            yield self._table()
        else:
            yield from map(self._lines, self._rows)

    def _widths(self) -> list[int]:
        cells = zip(*self._rows, strict=True) if self._rows else [() for _ in self._columns]
        return [
            max([len(name) if self._header else 0, *(_width(cell) for cell in column)])
            for name, column in zip(self._columns, cells, strict=True)
        ]

    def _table(self) -> Table:
        result = Table(
            box=None,
            pad_edge=False,
            padding=(0, _GAP, 0, 0),
            header_style="bold",
            show_header=self._header,
        )
        for name in self._columns[:-1]:
            result.add_column(name, no_wrap=True)
        result.add_column(self._columns[-1], overflow="fold")
        for row in self._rows:
            result.add_row(*row)
        return result

    def _lines(self, row: Sequence[Text]) -> RenderableType:
        first, *others = row
        heading = [Text.assemble(first, style="bold")] if first else []
        names = map(str.lower, self._columns[1:])
        named = [(name, cell) for name, cell in zip(names, others, strict=True) if cell]
        return Group(*heading, Padding(_pairs(named), (0, 0, 0, 2), expand=False))


def _pairs(named: Iterable[tuple[str, Text]]) -> Table:
    """Names and values; consecutive short ones share a line."""
    lines: list[list[Text]] = []
    share = False
    for name, cell in named:
        short = _width(cell) <= _SHORT and "\n" not in cell.plain
        pair = Text.assemble((f"{name}: " if name else "", "dim"), cell)
        if share and short:
            lines[-1].append(pair)
        else:
            lines.append([pair])
        share = short
    grid = Table.grid()
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(Text(", ").join(line))
    return grid


def _width(cell: Text) -> int:
    return max((line.cell_len for line in cell.split(allow_blank=True)), default=0)
