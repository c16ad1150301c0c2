"""A lesson for people: its parts, its tasks, and what became of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from troth.demo.scenario import Happened
from troth.learn.lesson import Actor
from troth.learn.outcome import NOTHING, expectation_rows, said
from troth.mesh.ports import TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from troth.explain.explain import Explanation
    from troth.learn.classroom import TaskResult, TryResult
    from troth.learn.lesson import Choice, KeyMoment, Lesson, LessonTry, Task, Tracked

_GOOD, _BAD, _QUIET, _TITLE = "green", "bold red", "dim", "bold"
_COLOURS = {
    Happened.TUNNEL: "green",
    Happened.PLAINTEXT: "yellow",
    Happened.REFUSED: "red",
    Happened.FAILED: "magenta",
}
_COLUMNS_OF_TABLES = 76


def render_opening(lesson: Lesson, number: int, of: int) -> RenderableType:
    """What the lesson is about, and the process between the two services."""
    flow = _grid()
    for step, each in enumerate(lesson.flow, start=1):
        who = "A and B" if each.who is Actor.BOTH else each.who
        flow.add_row(f"{step}", Text(f"{who} {each.does}"))
    return Group(
        "",
        Text(f"Lesson {number} of {of}: {lesson.title}", style=_TITLE),
        Text(lesson.question, style="italic"),
        "",
        Text(f"Service A is {lesson.a}, service B is {lesson.b}.", style=_QUIET),
        flow,
    )


def render_steps(lesson: Lesson) -> RenderableType:
    """The process as a table, and the tracker of its three variables."""
    steps = WrappedTable("STEP", "ACTION", "A", "B", "RESULT")
    tracker = WrappedTable("STEP", "CERTIFICATE OF A", "CERTIFICATE OF B", "CONNECTION")
    tracker.add_row(Text("start"), *_tracked(lesson.start))
    for number, each in enumerate(lesson.steps, start=1):
        steps.add_row(Text(f"{number}"), *map(Text, (each.action, each.a, each.b, each.result)))
        tracker.add_row(Text(f"{number}"), *_tracked(each))
    return _section("Step by step", steps, "", tracker)


def render_run(lesson: Lesson, results: Sequence[TryResult]) -> RenderableType:
    """The lesson's manifest, and what it does on the running mesh."""
    return _section("Run it", *_files(lesson.texts), *map(_tried, results))


def render_place(folder: Path, state: Path) -> RenderableType:
    """Where the lesson's mesh is, for another terminal."""
    return Group(
        Text(f"The mesh runs from the manifests in {folder}", style=_QUIET),
        Text(
            f"Look around in another terminal: export TROTH_STATE_DIR={state}; then troth status, "
            "troth explain, troth why, troth trace",
            style=_QUIET,
        ),
    )


def render_moment(moment: KeyMoment, results: Sequence[TryResult]) -> RenderableType:
    """A key moment, its why, and the connections that prove it."""
    return Padding(
        Group(
            "",
            Text(moment.asks, style=_TITLE),
            Text(moment.why),
            *(Padding(_tried(each), (1, 0, 0, 0)) for each in results),
        ),
        (0, 0, 0, 2),
    )


def render_closing(lesson: Lesson) -> RenderableType:
    """The concept in a few lines, and in prose."""
    lines = (Text(f"• {each}") for each in lesson.snapshot)
    return Group(
        _section("In short", *lines), _section("In words", Text(lesson.transcript.strip()))
    )


def render_task(task: Task, number: int, of: int) -> RenderableType:
    """A task, and its options."""
    parts: list[RenderableType] = [
        "",
        Text.assemble((f"{number} of {of}", _TITLE), (f"  {task.level}  {task.id}", _QUIET)),
        Text(task.ask.strip()),
    ]
    parts += _files(task.texts, "In force now")
    parts += (Text(f"  {_route(each)}", style=_QUIET) for each in task.tries)
    applied = [option.texts for option in task.options.values()]
    # Where the options only predict, what is applied is the same for all of them.
    same = len(applied) > 1 and all(each == applied[0] for each in applied)
    if same:
        parts += _files(applied[0], "What is applied")
    parts += (
        Padding(_option(key, option, with_files=not same), (0, 0, 0, 2))
        for key, option in sorted(task.options.items())
    )
    return Group(*parts)


def render_result(task: Task, result: TaskResult) -> RenderableType:
    """What the mesh made of an answer."""
    parts: list[RenderableType] = []
    if result.refused:
        parts.append(Text("The mesh doesn't take it:", style=_BAD))
        parts += (Text(f"  {each}") for each in result.refused)
    parts += map(_tried, result.tries)
    if task.to_write or not result.right:
        parts += map(_explained, result.explained)
    if result.right:
        return Group(*parts, Text("✓ Right: the mesh does what you said.", style=_GOOD))
    parts.append(Text("✗ Not so.", style=_BAD))
    if not task.to_write:
        parts.append(Text(task.options[result.answer].mistake))
    elif task.mistakes:
        parts.append(Text("Common mistakes here:"))
        parts += (Text(f"• {each.mistake}") for each in task.mistakes)
    return Group(*parts)


def render_hint(task: Task, number: int) -> RenderableType:
    """One of the hints."""
    return Text(f"Hint {number} of {len(task.hints)}: {task.hints[number - 1]}", style="cyan")


def render_solution(task: Task) -> RenderableType:
    """The worked solution."""
    answer = f"{task.answer}: " if task.answer else ""
    return Group(
        Text(f"Solution: {answer}{task.solution.strip()}"),
        *(_files({task.file: task.manifest}, "One that does it") if task.manifest else ()),
    )


def render_disagreement(task: Task) -> RenderableType:
    """What to say where a lesson's own answer isn't what the mesh did."""
    return Text(
        f"The lesson has {task.answer} for right, but the mesh decides. Please tell who wrote it.",
        style="yellow",
    )


def _tracked(tracked: Tracked) -> Iterator[Text]:
    for value in (tracked.a_certificate, tracked.b_certificate, tracked.connection):
        yield Text(value)


def _option(key: str, option: Choice, *, with_files: bool) -> RenderableType:
    text = Text.assemble((f"{key}  ", _TITLE), option.text)
    files = _files(option.texts) if with_files else ()
    return Group(text, *(Padding(each, (0, 0, 0, 3)) for each in files))


def _files(files: dict[str, str], heading: str = "") -> Iterator[RenderableType]:
    for name, text in files.items():
        yield Text(f"{heading}: {name}" if heading else name, style=_QUIET)
        yield Padding(Text(text.rstrip(), style="cyan"), (0, 0, 0, 2))


def _tried(result: TryResult) -> RenderableType:
    seen, event = result.observed, result.observed.event
    rows = _grid()
    rows.add_row("tried", Text(_route(result.tried)))
    if result.expected:
        wanted = "; ".join(f"{word}: {value}" for word, value in expectation_rows(result.expected))
        rows.add_row("expected", Text(wanted))
    rows.add_row("happened", Text(seen.detail, style=_COLOURS[seen.happens]))
    if event is None:
        rows.add_row("", Text("no proxy of the mesh has seen it", style=_QUIET))
    elif seen.mode is not None:
        decider = f"{event.decided_by}: {seen.mode}"
        if result.tried.shows is not None:
            decider = f"the tunnel itself, whatever the mode is ({decider})"
        rows.add_row("decided by", Text(decider))
    rows_of_more = (
        ("server saw", seen.identity if seen.identity != NOTHING else "nobody it can name"),
        ("alert", "" if seen.alert == NOTHING else seen.alert),
        ("certificate", said(seen.certificate) if seen.certificate else ""),
        ("audit", _readiness(result.tried.to, ready=seen.ready)),
        ("wire", ", ".join(seen.wire) if result.expected and result.expected.wire else ""),
        ("why", result.cause),
        ("remedy", result.remedy),
    )
    for label, text in rows_of_more:
        if text:
            rows.add_row(label, Text(text))
    for each in result.differs:
        rows.add_row(Text("✗", style=_BAD), Text(each, style=_BAD))
    return rows


def _readiness(name: str, *, ready: bool | None) -> str:
    if ready is None:
        return ""
    return f"{name} is ready for STRICT" if ready else f"{name} isn't ready for STRICT"


def _explained(explanation: Explanation) -> RenderableType:
    workload = f"{explanation.workload.namespace}/{explanation.workload.name}"
    decided = f"{explanation.mode} by {explanation.decided_by}"
    text = Text(f"explain {workload}: {decided}", style=_QUIET)
    for number, port in explanation.ports.items():
        if (port.mode, port.decided_by) != (explanation.mode, explanation.decided_by):
            text.append(f"; port {number} {port.mode} by {port.decided_by}")
    for each in explanation.considered:
        text.append(f"\n  {each.policy} ({each.scope}) {each.verdict}: {each.why}")
    return text


def _route(tried: LessonTry) -> str:
    route = f"{tried.source} → {tried.to}:{tried.port}"
    if tried.shows is None:
        past = ", past its own proxy" if tried.past_proxy else ""
        return f"{route}, GET / by plain HTTP{past}"
    claim = f" that says {tried.claims}" if tried.claims else ""
    again = ", and again when the server's was renewed" if tried.awaits_renewal else ""
    return f"{route}, TLS to port {TUNNEL_PORT} with {tried.shows.words}{claim}{again}"


def _section(title: str, *parts: RenderableType) -> RenderableType:
    return Group("", Text(title, style=_TITLE), Padding(Group(*parts), (0, 0, 0, 2), expand=False))


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


class WrappedTable:
    """A table whose columns are all wrapped; where even that has no room, lines for each row."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._rows: list[Sequence[Text]] = []

    def add_row(self, *cells: Text) -> None:
        """Add a row; as lines, cells that are empty are left out."""
        self._rows.append(cells)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the form for which there is room."""
        yield from self._table() if options.max_width >= _COLUMNS_OF_TABLES else self._lines()

    def _table(self) -> Iterable[RenderableType]:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
        for name in self._columns:
            table.add_column(name, overflow="fold")
        for row in self._rows:
            table.add_row(*row)
        yield table

    def _lines(self) -> Iterable[RenderableType]:
        for first, *others in self._rows:
            yield Text.assemble(first, style=_TITLE)
            grid = _grid()
            for name, cell in zip(self._columns[1:], others, strict=True):
                if not cell:
                    continue
                grid.add_row(name.lower() if name[1:] else name, cell)
            yield Padding(grid, (0, 0, 0, 2))
