"""`troth learn`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.text import Text

from troth.cli.console import Output, OutputOption, counted, err, print_json, print_report
from troth.errors import InputError, Problem
from troth.learn.course import check_course, read_course
from troth.learn.progress import Progress, ProgressFile, scores, standing
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from troth.learn.lesson import Lesson
    from troth.learn.progress import Standing, TopicScore


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("learn")(learn)


def learn(
    name: Annotated[
        str | None, typer.Argument(metavar="[LESSON]", help="The lesson to take.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="List the lessons, what is done of them, and the score.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the lesson begun last, at its first open task."),
    ] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget what was answered: of LESSON, or of all.")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="DIR", help="Say what is wrong with the lessons there."),
    ] = None,
    lessons: Annotated[
        Path | None, typer.Option("--lessons", metavar="DIR", help="Take lessons from there.")
    ] = None,
    answers: Annotated[
        list[str] | None,
        typer.Option(
            "--answer",
            metavar="TASK=ANSWER",
            help="Answer a task by this, without asking: an option's letter, or a manifest's file. "
            "May be given often; tasks without one are left out.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> int:
    """Learn mutual TLS on a running mesh: lessons, and tasks that the mesh itself judges.

    Without LESSON it says what to do next. A lesson starts a small mesh; every answer is put into
    force there, and what then happens is shown. The exit code is 0 when each task that was answered
    was answered right in the end, and 1 otherwise.
    """
    if check is not None:
        course = check_course(check)
        tasks = sum(len(each.all_tasks) for each in course.lessons.values())
        err.print(f"{counted(len(course.lessons), 'lesson')}, {counted(tasks, 'task')}: all right")
        return 0
    course = check_course(lessons) if lessons else read_course()
    kept = ProgressFile()
    if reset:
        if name is not None:
            course.lesson(name)
        kept.write((kept.read() if name else Progress()).without(name))
        err.print(f"forgotten: {escape(name) if name else 'all that was answered'}")
        return 0
    where = standing(course, kept.read())
    name = name or (where.next if resume else None)
    if listing or name is None:
        if output is Output.JSON:
            print_json(where)
        else:
            print_report(render_standing(where) if listing else render_next(where))
        return 0
    lesson = course.lesson(name)
    given = read_answers(answers, lesson) if answers else None
    # Lessons alone need a mesh, and all that goes with it.
    from troth.cli.visit import LessonReport, Visit  # noqa: PLC0415

    results = Visit(course, name, kept, given, silent=output is Output.JSON).take(brief=resume)
    progress = kept.read()
    topics = scores(course, progress, lesson=name)
    if output is Output.JSON:
        print_json(LessonReport(lesson=name, answers=results, topics=topics))
    else:
        print_report(render_scores(topics))
        print_report(render_next(standing(course, progress)))
    in_the_end = {each.task: each.right for each in results}
    return 0 if all(in_the_end.values()) else 1


def read_answers(given: list[str], lesson: Lesson) -> dict[str, list[str]]:
    """The answers of a command line by task, in order.

    Raises:
        InputError: One is for no task of the lesson.
    """
    answers: dict[str, list[str]] = {}
    names = [task.id for task in lesson.all_tasks]
    problems = []
    for each in given:
        task, equals, answer = each.partition("=")
        if not equals or task not in names:
            wanted = f"give TASK=ANSWER, with one of the lesson's tasks: {', '.join(names)}"
            problems.append(
                Problem(subject="--answer", path="", found=f"{each!r} answers none", wanted=wanted)
            )
        answers.setdefault(task, []).append(answer)
    if problems:
        raise InputError(problems)
    return answers


def render_standing(standing: Standing) -> RenderableType:
    """The lessons, how far each is done, the score, and what to do next."""
    rows = Rows("LESSON", "DONE", "TOPIC", "ABOUT")
    for each in standing.lessons:
        rows.add_row(
            Text(each.lesson, style="bold"),
            Text(f"{each.right}/{each.tasks}", style="green" if each.done else ""),
            Text(each.topic),
            Text(each.question),
        )
    return Group(rows, "", render_scores(standing.topics), "", render_next(standing))


def render_next(standing: Standing) -> RenderableType:
    """What to do next."""
    if standing.next is None:
        return Text("All lessons are done. Any can be taken again: troth learn LESSON")
    each = next(each for each in standing.lessons if each.lesson == standing.next)
    verb = "Go on with" if each.right else "Next"
    return Group(
        Text(f"{verb}: {each.title} ({counted(each.tasks - each.right, 'task')} to do)"),
        Text(f"  troth learn {each.lesson}", style="cyan"),
    )


def render_scores(topics: Sequence[TopicScore]) -> RenderableType:
    """The score by topic."""
    rows = Rows("TOPIC", "POINTS", "RIGHT")
    for each in topics:
        rows.add_row(
            Text(each.topic),
            Text(f"{each.points:g} of {each.most}"),
            Text(f"{each.right} of {counted(each.tasks, 'task')}"),
        )
    return rows
