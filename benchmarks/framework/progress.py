"""Progress on standard error, for whoever looks; nothing when that is piped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

if TYPE_CHECKING:
    from types import TracebackType


class ProgressLine:
    """One line that says what is being measured, and how much of it is done."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            Elapsed(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None)
        self._heading = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        """Show another benchmark from now on."""
        self._heading = name
        self.tell("starting")

    def tell(self, what: str, done: int = 0, total: int | None = None) -> None:
        """Show it."""
        self._progress.update(
            self._task, description=f"{self._heading}: {what}", completed=done, total=total
        )
