"""A recorded handshake for people: each message opened, and several side by side."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from troth.cli.lesson import WrappedTable
from troth.handshake.record import Kind, TlsRole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from troth.connect.report import Trace
    from troth.handshake.record import Event
    from troth.handshake.steps import TraceReport

_ROLES = {TlsRole.CLIENT: ("A", "cyan"), TlsRole.SERVER: ("B", "magenta")}
_BAD = frozenset({Kind.ALERT, Kind.REFUSED, Kind.BROKE_OFF, Kind.RESET, Kind.EMPTY_CERTIFICATE})


def render_moment_of(report: TraceReport, number: int) -> RenderableType:
    """One step of a handshake: what was sent or judged, what stands in it, and where that leads.

    Args:
        report: The handshake.
        number: Which step, from 1.
    """
    step, status = report.steps[number - 1], report.tracker[number - 1]
    event = report.handshake.events[number - 1]
    who, style = _ROLES[event.actor]
    heading = Text.assemble(
        (f"{number} of {len(report.steps)}  ", "bold"),
        (f"{who} ", style),
        (step.action, "bold red" if event.kind in _BAD else "bold"),
        (f"  after {event.elapsed_ms:.1f} ms", "dim"),
    )
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    if step.result:
        grid.add_row("result", Text(step.result.replace("\n", ", ")))
    grid.add_row("states", Text(f"A {step.client_state}, B {step.server_state} (RFC 8446, A)"))
    grid.add_row("A's certificate", Text(status.client_certificate))
    grid.add_row("B's certificate", Text(status.server_certificate))
    grid.add_row("connection", Text(status.connection))
    # Of their own, or the longest name of a field would take the room of all values.
    fields = (Text.assemble((f"{each.name}: ", "dim"), each.value) for each in event.fields)
    return Group("", heading, Padding(Group(grid, *fields), (0, 0, 0, 2)))


def render_side_by_side(traces: Sequence[Trace]) -> RenderableType:
    """What was on the wire with each of several credentials, row by row."""
    table = WrappedTable("STEP", *(each.credentials.words.upper() for each in traces))
    columns = ([_told(event) for event in each.report.handshake.events] for each in traces)
    for number, cells in enumerate(zip_longest(*columns, fillvalue=Text()), start=1):
        table.add_row(Text(f"{number}"), *cells)
    reasons = (Text(f"{each.credentials.words}: {each.report.reason}") for each in traces)
    return Group("", table, "", *reasons)


def _told(event: Event) -> Text:
    who, style = _ROLES[event.actor]
    detail = f": {event.detail}" if event.kind is Kind.ALERT else ""
    return Text.assemble(
        (f"{who} ", style), (f"{event.kind}{detail}", "bold red" if event.kind in _BAD else "")
    )
