"""Taking a lesson at a terminal: what is shown in which order, and what is asked."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from rich.markup import escape

from troth.cli.console import err, print_report
from troth.cli.lesson import (
    render_closing,
    render_disagreement,
    render_hint,
    render_moment,
    render_opening,
    render_place,
    render_result,
    render_run,
    render_solution,
    render_steps,
    render_task,
)
from troth.cli.player import render_moment_of, render_side_by_side
from troth.control.state_dir import StateDirectory
from troth.demo.mesh import started
from troth.learn.classroom import Classroom, TaskResult
from troth.learn.progress import TopicScore
from troth.local.outside import Outside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from troth.learn.course import Course
    from troth.learn.lesson import Played, Task
    from troth.learn.progress import ProgressFile

_KEYS = "h: hint, s: solution, n: next task, q: quit"


class LessonReport(msgspec.Struct, frozen=True, kw_only=True):
    """A lesson that was taken; ``troth learn LESSON -o json`` prints exactly this.

    Attributes:
        answers: All that were given, in order.
        topics: The lesson's score so far.
    """

    schema: Literal["troth/lesson/v1"] = "troth/lesson/v1"
    lesson: str
    answers: tuple[TaskResult, ...]
    topics: tuple[TopicScore, ...]


class _Leaving(Exception):  # noqa: N818 - no error: the learner goes
    """The learner has had enough for now."""


class Visit:
    """One lesson, taken by one learner.

    Args:
        course: The course.
        name: The lesson's name.
        kept: Where progress is kept.
        given: Answers by task; None to ask for them.
        silent: Show nothing.
    """

    def __init__(
        self,
        course: Course,
        name: str,
        kept: ProgressFile,
        given: Mapping[str, Sequence[str]] | None,
        *,
        silent: bool,
    ) -> None:
        self._course, self._name, self._kept = course, name, kept
        self._lesson = course.lesson(name)
        self._given = None if given is None else {task: list(all_) for task, all_ in given.items()}
        self._silent = silent
        self._results: list[TaskResult] = []

    def take(self, *, brief: bool) -> tuple[TaskResult, ...]:
        """Show the lesson and ask its tasks.

        Args:
            brief: Begin with the first open task.

        Raises:
            TrothError: The mesh can't run here, or breaks down.
        """
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        self._kept.write(self._kept.read().begun(self._name))
        with self._mesh() as room, contextlib.suppress(_Leaving):
            self._show(render_place(room.folder, room.state.path))
            if brief:
                self._ask_all(room, self._lesson.all_tasks)
            else:
                self._present(room)
        return tuple(self._results)

    @contextlib.contextmanager
    def _mesh(self) -> Iterator[Classroom]:
        with contextlib.ExitStack() as cleanup:
            state = StateDirectory()
            if Outside(state).process() is not None:
                # The user's own mesh is not to be touched.
                home = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="troth-learn-"))
                state = StateDirectory(Path(home) / "state")
            room = Classroom(
                self._lesson,
                self._course.manifests(self._lesson),
                folder=self._kept.folder(self._name),
                state=state,
            )
            status = cleanup.enter_context(err.status("starting the lesson's mesh"))

            def tell(waiting: Sequence[str]) -> None:
                status.update(f"starting the lesson's mesh: waiting for {escape(waiting[0])}")

            cleanup.enter_context(started(room, tell))
            status.stop()
            yield room

    def _present(self, room: Classroom) -> None:
        lesson = self._lesson
        names = list(self._course.lessons)
        self._show(render_opening(lesson, names.index(self._name) + 1, len(names)))
        self._pause()
        self._show(render_steps(lesson))
        self._pause()
        self._show(render_run(lesson, room.show()))
        self._pause()
        if lesson.handshake:
            self._play(room, lesson.handshake)
        for moment in lesson.moments:
            room.put(moment)
            self._show(render_moment(moment, room.make(moment.tries)))
            self._pause()
        self._ask_all(room, lesson.questions)
        self._show(render_closing(lesson))
        self._pause()
        self._ask_all(room, lesson.tasks)

    def _play(self, room: Classroom, played: Played) -> None:
        """Record a handshake and step through it; then show the impostors beside it."""
        own = room.play(played)
        count = len(own.report.steps)
        number = 1
        while number <= count:
            self._show(render_moment_of(own.report, number))
            prompt = "Enter: next, b: back, a number: that step, e: to the end, q: quit "
            key = self._line(prompt) if self._interactive else ""
            if key == "q":
                raise _Leaving
            if key == "e":
                break
            if key.isascii() and key.isdigit():
                number = min(max(int(key[:4]), 1), count)
            else:
                number = max(number - 1, 1) if key == "b" else number + 1
        impostors = [room.play(played, each) for each in played.impostors]
        if impostors:
            self._show(render_side_by_side([own, *impostors]))
            self._pause()

    def _ask_all(self, room: Classroom, tasks: Sequence[Task]) -> None:
        """Ask tasks: those that aren't done, or all if they are or if answers were given."""
        progress = self._kept.read()
        still_open = [task for task in tasks if not progress.of(self._name, task.id).right]
        if self._given is not None:
            still_open = [task for task in tasks if task.id in self._given]
        for task in still_open or (tasks if self._given is None else ()):
            room.set_up(task)
            number = self._lesson.all_tasks.index(task) + 1
            self._show(render_task(task, number, len(self._lesson.all_tasks)))
            self._ask(room, task)

    def _ask(self, room: Classroom, task: Task) -> None:
        """Ask one task until it is answered right, or the learner goes on."""
        hints = 0
        while (answer := self._answer(room, task)) is not None:
            key = answer.strip()
            match key.lower():
                case "q":
                    raise _Leaving
                case "n":
                    return
                case "h":
                    hints = min(hints + 1, len(task.hints))
                    self._show(render_hint(task, hints))
                    self._note(task, hint=hints)
                case "s":
                    # Read before it was answered, it is the last of the hints.
                    self._note(task, hint=len(task.hints) + 1)
                    self._show(render_solution(task))
                case _:
                    if self._judge(room, task, key):
                        return

    def _judge(self, room: Classroom, task: Task, answer: str) -> bool:
        """Have an answer tried; whether it is right."""
        if task.to_write:
            text = None
            if answer:
                try:
                    text = Path(answer).expanduser().read_text("utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    why = (
                        (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
                    )
                    err.print(f"[yellow]{escape(answer)} can't be read:[/yellow] {escape(why)}")
                    return False
            result = room.hand_in(task, text)
        elif answer.upper() in task.options:
            result = room.choose(task, answer.upper())
        else:
            err.print(f"[yellow]choose one of {', '.join(sorted(task.options))}[/yellow]; {_KEYS}")
            return False
        self._results.append(result)
        self._note(task, right=result.right)
        self._show(render_result(task, result))
        if result.right:
            self._show(render_solution(task))
        elif result.answer == task.answer:
            self._show(render_disagreement(task))
        return result.right

    def _note(self, task: Task, *, right: bool | None = None, hint: int = 0) -> None:
        progress = self._kept.read()
        answered = progress.of(self._name, task.id)
        answered = answered.hint(hint) if right is None else answered.answer(right=right)
        self._kept.write(progress.with_task(self._name, task.id, answered))

    def _answer(self, room: Classroom, task: Task) -> str | None:
        """The next answer; None when there is none left of those that were given."""
        if self._given is not None:
            left = self._given[task.id]
            return left.pop(0) if left else None
        if task.to_write:
            prompt = f"Edit {room.folder / task.file}, then press Enter (or give another file)"
        else:
            prompt = f"Your answer, {' '.join(sorted(task.options))}"
        return self._line(f"{prompt}; {_KEYS}\n> ")

    @property
    def _interactive(self) -> bool:
        return self._given is None and sys.stdin.isatty()

    def _pause(self) -> None:
        """Let the learner read."""
        if self._interactive and self._line("Enter: go on, q: quit ") == "q":
            raise _Leaving

    def _line(self, prompt: str) -> str:
        """A line of the learner's; who asks for nothing more leaves."""
        err.print(f"[dim]{escape(prompt)}[/dim]", end="")
        line = sys.stdin.readline()
        if not line:
            err.print()
            raise _Leaving
        return line.strip()

    def _show(self, part: RenderableType) -> None:
        if not self._silent:
            print_report(part)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)
