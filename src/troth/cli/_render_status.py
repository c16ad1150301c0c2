"""How a local mesh's status reads: a row for each pod, or lines where that is too wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from troth.cli._console import coloured, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from troth.local import PodReport, PortStatus

_UNBOUNDED = 10_000


class PodTable:
    """All pods, in a table where there is room for one; a rich renderable.

    Args:
        pods: The pods.
        now: The time that certificates' lives are counted from.
    """

    def __init__(self, pods: Sequence[PodReport], *, now: datetime) -> None:
        self._pods = pods
        self._now = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = _table(self._pods, self._now)
        needed = Measurement.get(console, options.update(max_width=_UNBOUNDED), rows).maximum
        if needed <= options.max_width:
            yield rows
        else:
            for pod in self._pods:
                yield _block(pod, self._now)


def _table(pods: Sequence[PodReport], now: datetime) -> Table:
    rows = table("POD", "PHASE", "READY", "CAPTURED", "MODE", "DECIDED BY", "IDENTITY", "CERT")
    for pod in pods:
        rows.add_row(
            f"{pod.namespace}/{pod.name}",
            pod.phase,
            "yes" if pod.ready else "no",
            "yes" if pod.captured else "no",
            coloured(pod.mode) if pod.mode else "",
            str(pod.decided_by) if pod.decided_by else "",
            escape(pod.identity)
            if pod.identity and pod.captured
            else f"[dim]{escape(pod.why)}[/dim]",
            _left(pod.certificate_expires, now),
        )
        for number, port in _deviating(pod):
            rows.add_row(f"  port {number}", "", "", "", coloured(port.mode), str(port.decided_by))
    return rows


def _block(pod: PodReport, now: datetime) -> RenderableType:
    """A pod as some lines, for a terminal that is too narrow for the table."""
    facts = [pod.phase, "ready" if pod.ready else "not ready"]
    facts.append("captured" if pod.captured else f"not captured: {pod.why}")
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    if pod.mode:
        lines.add_row("  mode", f"{coloured(pod.mode)} by {pod.decided_by}")
    for number, port in _deviating(pod):
        lines.add_row(f"  port {number}", f"{coloured(port.mode)} by {port.decided_by}")
    if pod.identity and pod.captured:
        lines.add_row("  identity", escape(pod.identity))
        lines.add_row("  cert", _left(pod.certificate_expires, now))
    name = Text(f"{pod.namespace}/{pod.name}", style="bold")
    return Group(Text.assemble(name, f"  {', '.join(facts)}"), lines)


def _deviating(pod: PodReport) -> Iterator[tuple[int, PortStatus]]:
    """The ports whose mode isn't the pod's, or comes from elsewhere."""
    for number, port in pod.ports.items():
        if (port.mode, port.decided_by) != (pod.mode, pod.decided_by):
            yield number, port


def _left(until: datetime | None, now: datetime) -> str:
    if until is None:
        return ""
    minutes = int((until - now).total_seconds() // 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m"  # noqa: PLR2004
