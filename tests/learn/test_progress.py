"""What is remembered of a learner, and what it scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.learn.lessons import lesson, question, write, writing

from troth.errors import InputError
from troth.learn.course import read_course
from troth.learn.progress import Answered, Progress, ProgressFile, scores, standing

if TYPE_CHECKING:
    from pathlib import Path

    from troth.learn.course import Course

RIGHT = Answered().answer(right=True)


@pytest.fixture
def course(tmp_path: Path) -> Course:
    hard = writing("hard", level="hard", topic="scopes")
    write(tmp_path, lesson(tasks=[question(), hard]))
    write(tmp_path, lesson(order=0, topic="identity"), "zero")
    return read_course(tmp_path)


def test_lessons_stand_in_their_order(course: Course) -> None:
    assert list(course.lessons) == ["zero", "first"]


def test_right_at_once_counts_whole_and_right_later_half() -> None:
    assert RIGHT.at_once
    later = Answered().answer(right=False).answer(right=True)
    assert later.right
    assert not later.at_once
    assert not Answered().hint(1).answer(right=True).at_once


def test_what_comes_after_the_right_answer_changes_nothing() -> None:
    assert RIGHT.answer(right=False) == RIGHT
    assert RIGHT.hint(3) == RIGHT


def test_a_hint_read_again_is_one_hint() -> None:
    assert Answered().hint(1).hint(1).hint(2).hints == 2


def test_points_are_counted_by_topic_and_level(course: Course) -> None:
    half = Answered().hint(1).answer(right=True)
    progress = Progress().with_task("first", "who", RIGHT).with_task("first", "hard", half)
    by_topic = {each.topic: each for each in scores(course, progress)}
    assert (by_topic["modes"].points, by_topic["modes"].most) == (1, 2)
    assert (by_topic["scopes"].points, by_topic["scopes"].most) == (1.5, 3)
    assert (by_topic["identity"].points, by_topic["identity"].right) == (0, 0)
    assert [each.topic for each in scores(course, progress, lesson="zero")] == ["identity"]


def test_the_lesson_begun_comes_next_until_it_is_done(course: Course) -> None:
    assert standing(course, Progress()).next == "zero"
    progress = Progress().begun("first")
    assert standing(course, progress).next == "first"
    for task in course.lesson("first").all_tasks:
        progress = progress.with_task("first", task.id, RIGHT)
    assert standing(course, progress).next == "zero"
    for task in course.lesson("zero").all_tasks:
        progress = progress.with_task("zero", task.id, RIGHT)
    assert standing(course, progress).next is None


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    kept = ProgressFile(tmp_path / "state")
    assert kept.read() == Progress()
    progress = Progress().begun("first").with_task("first", "who", RIGHT)
    kept.write(progress)
    assert kept.read() == progress


def test_a_lesson_is_forgotten_alone() -> None:
    progress = Progress().with_task("first", "who", RIGHT).with_task("zero", "who", RIGHT)
    assert list(progress.without("first").answered) == ["zero"]
    assert progress.without(None) == Progress()


def test_a_file_that_is_no_progress_is_told_with_the_way_out(tmp_path: Path) -> None:
    kept = ProgressFile(tmp_path)
    kept.path.write_text("{")
    with pytest.raises(InputError, match=r"can't be read.*troth learn --reset"):
        kept.read()


def test_progress_is_kept_where_the_user_keeps_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert str(ProgressFile().home) == "/somewhere/troth/learn"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/a")
    assert str(ProgressFile().home) == "/home/a/.local/state/troth/learn"
