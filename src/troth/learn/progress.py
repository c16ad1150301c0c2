"""What a learner has answered so far, where that is kept, and what it scores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from troth.errors import InputError, Problem

if TYPE_CHECKING:
    from troth.learn.course import Course
    from troth.learn.lesson import Level


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one task so far.

    Attributes:
        attempts: How often it was answered.
        hints: How many hints were read.
        right: It was answered right, at last.
    """

    attempts: int = 0
    hints: int = 0
    right: bool = False

    @property
    def at_once(self) -> bool:
        """Right the first time and without a hint."""
        return self.right and self.attempts == 1 and not self.hints

    def answer(self, *, right: bool) -> Answered:
        """With one more answer; what comes after the right one doesn't count."""
        if self.right:
            return self
        return Answered(attempts=self.attempts + 1, hints=self.hints, right=right)

    def hint(self, number: int) -> Answered:
        """With so many hints read; those read after the right answer don't count."""
        if self.right or number <= self.hints:
            return self
        return Answered(attempts=self.attempts, hints=number, right=False)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """All that is remembered of a learner.

    Attributes:
        lesson: The lesson that was begun last.
        answered: By lesson and task.
    """

    lesson: str = ""
    answered: Mapping[str, Mapping[str, Answered]] = {}

    def of(self, lesson: str, task: str) -> Answered:
        """What became of a task so far."""
        return self.answered.get(lesson, {}).get(task, Answered())

    def begun(self, lesson: str) -> Progress:
        """With this lesson begun."""
        return msgspec.structs.replace(self, lesson=lesson)

    def with_task(self, lesson: str, task: str, answered: Answered) -> Progress:
        """With a task answered."""
        tasks = {**self.answered.get(lesson, {}), task: answered}
        return msgspec.structs.replace(self, answered={**self.answered, lesson: tasks})

    def without(self, lesson: str | None) -> Progress:
        """Without a lesson's answers, or with none at all."""
        if lesson is None:
            return Progress()
        kept = {name: tasks for name, tasks in self.answered.items() if name != lesson}
        return Progress(lesson="" if self.lesson == lesson else self.lesson, answered=kept)


class TopicScore(msgspec.Struct, frozen=True, kw_only=True):
    """What was reached in one topic.

    Attributes:
        points: Of ``most``. A task counts 1 (easy), 2 or 3 (hard), and half of that if it took more
            than one answer or a hint.
        right: How many of its ``tasks`` were answered right.
    """

    topic: str
    points: float
    most: int
    right: int
    tasks: int


class LessonProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a learner is in one lesson."""

    lesson: str
    title: str
    topic: str
    question: str
    right: int
    tasks: int

    @property
    def done(self) -> bool:
        """Whether all of its tasks were answered right."""
        return self.right == self.tasks


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a learner stands; ``troth learn --list -o json`` prints exactly this.

    Attributes:
        next: The lesson to take next; None when all are done.
    """

    schema: Literal["troth/learn/v1"] = "troth/learn/v1"
    lessons: tuple[LessonProgress, ...]
    topics: tuple[TopicScore, ...]
    next: str | None


def standing(course: Course, progress: Progress) -> Standing:
    """Where a learner stands in a course."""
    lessons = tuple(
        LessonProgress(
            lesson=name,
            title=lesson.title,
            topic=lesson.topic,
            question=lesson.question,
            right=sum(progress.of(name, task.id).right for task in lesson.all_tasks),
            tasks=len(lesson.all_tasks),
        )
        for name, lesson in course.lessons.items()
    )
    open_lessons = [each.lesson for each in lessons if not each.done]
    begun = progress.lesson if progress.lesson in open_lessons else None
    return Standing(
        lessons=lessons,
        topics=scores(course, progress),
        next=begun or next(iter(open_lessons), None),
    )


def scores(
    course: Course, progress: Progress, *, lesson: str | None = None
) -> tuple[TopicScore, ...]:
    """The score by topic, of the whole course or of one lesson."""
    by_topic: dict[str, list[tuple[Level, Answered]]] = {}
    for name, each in course.lessons.items():
        for task in each.all_tasks if lesson in {None, name} else ():
            topic = by_topic.setdefault(task.topic or each.topic, [])
            topic.append((task.level, progress.of(name, task.id)))
    return tuple(
        TopicScore(
            topic=topic,
            points=sum(map(_points, tasks)),
            most=sum(level.points for level, _ in tasks),
            right=sum(answered.right for _, answered in tasks),
            tasks=len(tasks),
        )
        for topic, tasks in by_topic.items()
    )


def _points(task: tuple[Level, Answered]) -> float:
    level, answered = task
    if not answered.right:
        return 0
    return level.points if answered.at_once else level.points / 2


class ProgressFile:
    """Where progress is kept: the user's state folder (XDG Base Directory Specification).

    Args:
        home: The folder; by default ``troth/learn`` in ``$XDG_STATE_HOME`` or ``~/.local/state``.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or _default_home()
        self.path = self.home / "progress.json"

    def read(self) -> Progress:
        """What is kept.

        Raises:
            InputError: It can't be read.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Progress)
        except FileNotFoundError:
            return Progress()
        except (OSError, msgspec.DecodeError) as error:
            raise self._problem(f"can't be read: {error}") from error

    def write(self, progress: Progress) -> None:
        """Keep it; the file is whole at every moment.

        Raises:
            InputError: It can't be written.
        """
        new = self.path.with_suffix(".new")
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_bytes(msgspec.json.format(msgspec.json.encode(progress)) + b"\n")
            new.replace(self.path)
        except OSError as error:
            raise self._problem(f"can't be written: {error.strerror}") from error

    def folder(self, lesson: str) -> Path:
        """The folder of a lesson's manifests, which the learner edits."""
        return self.home / lesson

    def _problem(self, found: str) -> InputError:
        wanted = "start over with: troth learn --reset, or set XDG_STATE_HOME"
        return InputError([Problem(subject=str(self.path), path="", found=found, wanted=wanted)])


def _default_home() -> Path:
    given = os.environ.get("XDG_STATE_HOME", "")
    # What is no absolute path is to be ignored, the specification says.
    base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return base / "troth" / "learn"
