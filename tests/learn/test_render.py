"""A lesson on terminals of every width."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.columns import assert_whole, drawn
from tests.demo.samples import ANSWERED, RESET, refused_trace
from tests.learn.lessons import POLICY

from troth.cli.learn import render_standing
from troth.cli.lesson import (
    render_closing,
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
from troth.demo.scenario import Happened
from troth.demo.walk import seen_of_attempt
from troth.errors import Problem
from troth.learn.classroom import TaskResult, TryResult
from troth.learn.course import read_course
from troth.learn.lesson import Expectation, LessonTry
from troth.learn.outcome import observed
from troth.learn.progress import Progress, standing

COURSE = read_course()
of_each_lesson = pytest.mark.parametrize("name", COURSE.lessons)
TRIED = LessonTry(source="finance/web", to="finance/payments", port=8080)
IN = TryResult(tried=TRIED, expected=None, observed=observed(seen_of_attempt(ANSWERED)))
OUT = TryResult(
    tried=TRIED,
    expected=Expectation(happens=Happened.TUNNEL),
    observed=observed(seen_of_attempt(RESET)),
    differs=("what happens: expected tunnel, but refused",),
    cause="Plaintext, and finance/strict sets STRICT.",
    remedy="Put the client's namespace in the mesh.",
)


@of_each_lesson
def test_a_lesson_is_whole_in_every_width(name: str) -> None:
    lesson = COURSE.lesson(name)
    assert_whole(render_opening(lesson, 1, 9))
    assert_whole(render_steps(lesson))
    assert_whole(render_closing(lesson))
    assert_whole(render_run(lesson, [IN, OUT]))
    for moment in lesson.moments:
        assert_whole(render_moment(moment, [OUT]))
    for task in lesson.all_tasks:
        assert_whole(render_task(task, 1, 9))
        assert_whole(render_solution(task))
        assert_whole(render_hint(task, 1))


def test_a_manifest_that_all_options_are_about_is_shown_once() -> None:
    tasks = {task.id: task for task in COURSE.lesson("modes").all_tasks}
    assert drawn(render_task(tasks["no-such-mode"], 1, 9), 80).count("mode: ENFORCED") == 1
    assert drawn(render_task(tasks["both-ways"], 1, 9), 80).count("kind: PeerAuthentication") == 3


def test_where_a_learner_stands_is_whole_in_every_width() -> None:
    assert_whole(render_standing(standing(COURSE, Progress())))
    assert_whole(render_place(Path("/a/long/path/to/a/folder"), Path("/run/troth")))


def test_a_wrong_answer_shows_what_happened_and_the_mistake_behind_it() -> None:
    task = next(each for each in COURSE.lesson("modes").tasks if not each.to_write)
    key = next(iter(task.options.keys() - {task.answer}))
    result = TaskResult(
        task=task.id, answer=key, right=False, refused=(), tries=(OUT,), explained=()
    )
    shown = drawn(render_result(task, result), 1000)
    assert "refused: plaintext to strict" in shown
    assert OUT.cause in shown
    assert task.options[key].mistake in shown
    assert_whole(render_result(task, result))


def test_a_manifest_that_is_not_taken_is_told_with_its_mistake() -> None:
    task = next(each for each in COURSE.lesson("modes").tasks if each.to_write)
    problem = Problem(subject="file", path="spec", found="is wrong", wanted="correct it")
    result = TaskResult(
        task=task.id, answer=POLICY, right=False, refused=(problem,), tries=(IN,), explained=()
    )
    shown = drawn(render_result(task, result), 1000)
    assert str(problem) in shown
    assert task.mistakes[0].mistake in shown
    assert_whole(render_result(task, result))


def test_a_handshake_is_whole_in_every_width() -> None:
    trace = refused_trace()
    for number in range(1, len(trace.report.steps) + 1):
        assert_whole(render_moment_of(trace.report, number))
    assert_whole(render_side_by_side([trace, trace]))
