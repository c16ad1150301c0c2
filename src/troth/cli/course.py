"""The course for people: its lessons, how far each is done, the score, and what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from troth.cli.console import counted
from troth.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from troth.learn.progress import Standing, TopicScore


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
