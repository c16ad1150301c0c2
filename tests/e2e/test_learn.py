"""`troth learn`: every task of every lesson, judged by a mesh that runs."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import TROTH, Host

from troth.control.state_dir import StateDirectory
from troth.demo.mesh import started
from troth.learn.classroom import Classroom
from troth.learn.course import read_course
from troth.learn.lesson import Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from troth.learn.classroom import TryResult
    from troth.learn.lesson import Lesson, Task

pytestmark = pytest.mark.e2e

COURSE = read_course()
PARTS = ("questions", *Level)
of_each_part = pytest.mark.parametrize("part", PARTS)


@pytest.fixture(scope="module", params=COURSE.lessons)
def room(request: pytest.FixtureRequest) -> Iterator[Classroom]:
    """The mesh of one lesson, for all of its tasks."""
    lesson = COURSE.lesson(request.param)
    # Short, because Unix sockets' paths are at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="troth-e2e-") as home:
        room = Classroom(
            lesson,
            COURSE.manifests(lesson),
            folder=Path(home) / "lesson",
            state=StateDirectory(Path(home) / "state"),
        )
        with started(room, lambda _: None):
            yield room


def test_a_lessons_own_connections_show_what_it_says(room: Classroom) -> None:
    assert wrong(room.show()) == []


def test_every_key_moment_is_proved(room: Classroom) -> None:
    for moment in room.lesson.moments:
        assert room.put(moment) == ()
        assert wrong(room.make(moment.tries)) == [], moment.asks


@of_each_part
def test_the_mesh_judges_every_right_answer_right(room: Classroom, part: str) -> None:
    for task in tasks(room.lesson, part):
        if task.answer is not None:
            result = room.choose(task, task.answer)
        else:
            room.set_up(task)
            result = room.hand_in(task, task.manifest)
        assert wrong(result.tries) == [], task.id
        assert result.right, task.id


@of_each_part
def test_the_mesh_judges_every_wrong_answer_wrong(room: Classroom, part: str) -> None:
    for task in tasks(room.lesson, part):
        for key in task.options.keys() - {task.answer}:
            assert not room.choose(task, key).right, (task.id, key)
        for mistake in task.mistakes:
            room.set_up(task)
            answered = room.hand_in(task, mistake.texts[task.file])
            assert not answered.right, (task.id, mistake.mistake)


def tasks(lesson: Lesson, part: str) -> Sequence[Task]:
    """A part of a lesson's tasks; every lesson has all parts."""
    if part == "questions":
        return lesson.questions
    return [task for task in lesson.tasks if task.level == part]


def wrong(results: Sequence[TryResult]) -> list[object]:
    return [(each.tried, each.differs, each.observed.detail) for each in results if each.differs]


@pytest.fixture
def surroundings() -> Iterator[dict[str, str]]:
    """A learner's own state, and a place for the mesh's."""
    with tempfile.TemporaryDirectory(prefix="troth-e2e-") as home:
        yield {
            **os.environ,
            "XDG_STATE_HOME": f"{home}/kept",
            "TROTH_STATE_DIR": f"{home}/mesh",
        }


def learn(
    host: Host, surroundings: dict[str, str], *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    return host.run(TROTH, "learn", *arguments, env=surroundings, check=False, **options)


def test_answers_of_the_command_line_are_tried_and_scored(
    host: Host, surroundings: dict[str, str], tmp_path: Path
) -> None:
    task = next(task for task in COURSE.lesson("modes").tasks if task.to_write)
    manifest = tmp_path / "mine.yaml"
    manifest.write_text(task.manifest)
    given = ("--answer", "both-ways=A", "--answer", f"{task.id}={manifest}")
    first = learn(host, surroundings, "modes", *given, "-o", "json")
    report = json.loads(first.stdout)
    assert first.returncode == 1
    assert [(each["task"], each["right"]) for each in report["answers"]] == [
        ("both-ways", False),
        (task.id, True),
    ]
    assert report["answers"][0]["tries"][1]["observed"]["happens"] == "refused"
    second = learn(host, surroundings, "modes", "--answer", "both-ways=B", "-o", "json")
    assert second.returncode == 0
    listed = json.loads(learn(host, surroundings, "--list", "-o", "json").stdout)
    assert listed["next"] == "modes"
    assert {each["lesson"]: each["right"] for each in listed["lessons"]}["modes"] == 2
    assert not Path(surroundings["TROTH_STATE_DIR"]).exists()


def test_a_lesson_is_taken_by_lines_and_gone_on_with(
    host: Host, surroundings: dict[str, str]
) -> None:
    first = learn(host, surroundings, "modes", input="B\nh\nA\nq\n")
    assert "✗ Not so." in first.stdout
    assert "Hint 1 of 3" in first.stdout
    assert "✓ Right: the mesh does what you said." in first.stdout
    second = learn(host, surroundings, "--resume", input="")
    assert "2 of" in second.stdout
    assert "Step by step" not in second.stdout
    forgotten = learn(host, surroundings, "modes", "--reset")
    assert forgotten.stderr == "forgotten: modes\n"


def test_a_learner_edits_the_file_in_the_lessons_folder(
    host: Host, surroundings: dict[str, str]
) -> None:
    task = next(task for task in COURSE.lesson("modes").tasks if task.to_write)
    folder = Path(surroundings["XDG_STATE_HOME"]) / "troth" / "learn" / "modes"
    number = COURSE.lesson("modes").all_tasks.index(task)
    process = host.start(
        *(TROTH, "learn", "modes"),
        env=surroundings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("n\n" * number)
        process.stdin.flush()
        for line in process.stdout:
            if f"{number + 1} of" in line:
                break
        (folder / task.file).write_text(task.manifest)
        shown, _ = process.communicate("\nq\n")
    assert process.returncode == 0, shown
    assert "✓ Right" in shown


def test_a_mesh_that_runs_already_is_left_alone(
    host: Host, surroundings: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("{apiVersion: v1, kind: Namespace, metadata: {name: mine}}")
    host.run(TROTH, "up", "-d", str(tmp_path), env=surroundings)
    try:
        taken = learn(host, surroundings, "modes", "--answer", "picture-disable=B")
        assert taken.returncode == 0, taken.stderr
        assert "ready" in host.run(TROTH, "status", "-o", "json", env=surroundings).stdout
    finally:
        host.run(TROTH, "down", "--now", env=surroundings)
