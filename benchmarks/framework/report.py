"""What was measured as a table for people and as JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.framework.figure import Better, Figure, short
from benchmarks.framework.record import SCHEMA
from benchmarks.framework.verdict import Verdict, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.framework.record import Record, Result

_PIPED_COLUMNS = 200
_COLOURS = {Verdict.WORSE: "red", Verdict.NOISE: "yellow"}


def print_table(results: Sequence[Result], recorded: Record) -> None:
    """Print all figures beside their targets and what was recorded."""
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = _PIPED_COLUMNS
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in ("FIGURE", "VALUE", "SPREAD", "UNIT", "TARGET", "RECORDED", "MEASURED"):
        table.add_column(column, overflow="fold")
    for result in results:
        table.add_row(f"[bold]{escape(result.name)}[/]")
        for figure in result.figures:
            table.add_row(*_row(figure, recorded.figure(result.name, figure.name)))
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def print_json(results: Sequence[Result], recorded: Record) -> None:
    """Print all figures as one JSON document."""
    document = {"schema": SCHEMA, "results": [_document(each, recorded) for each in results]}
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
    sys.stdout.write(encoded.decode() + "\n")


def _row(figure: Figure, recorded: Figure | None) -> tuple[str, ...]:
    verdict = compare(figure, recorded)
    then = "" if recorded is None else short(recorded.estimate.value)
    if colour := _COLOURS.get(verdict):
        then = f"[{colour}]{then} {verdict}[/]"
    spread = f"{short(figure.estimate.low)} - {short(figure.estimate.high)}"
    return (
        f"  {escape(figure.name)}",
        short(figure.estimate.value),
        spread if figure.estimate.count > 1 else "",
        escape(figure.unit),
        _target(figure),
        then,
        escape(figure.note),
    )


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    sign = "≤" if figure.better is Better.LOWER else "≥"
    mark = "[green]✓[/]" if figure.met else "[red]✗[/]"
    return f"{mark} {sign} {figure.target:g}"


def _document(result: Result, recorded: Record) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(result)
    for figure, fields in zip(result.figures, document["figures"], strict=True):
        then = recorded.figure(result.name, figure.name)
        fields["met"] = figure.met
        fields["recorded"] = None if then is None else then.estimate.value
        fields["verdict"] = str(compare(figure, then))
    return document
