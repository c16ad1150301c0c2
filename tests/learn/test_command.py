"""`troth learn` as a command, where it needs no mesh."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.learn.lessons import lesson, write

from troth.cli.app import run
from troth.learn.course import read_course
from troth.learn.progress import Answered, Progress, ProgressFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "kept"))
    return tmp_path


def test_without_a_lesson_it_says_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["learn"]) == 0
    first = next(iter(read_course().lessons))
    assert f"troth learn {first}" in capsys.readouterr().out


def test_the_list_says_how_far_each_lesson_is_done(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    name, first = next(iter(read_course().lessons.items()))
    right = Answered().answer(right=True)
    ProgressFile().write(Progress().with_task(name, first.all_tasks[0].id, right))
    assert run(["learn", "--list", "-o", "json"]) == 0
    report = json.loads(capsysbinary.readouterr().out)
    assert report["schema"] == "troth/learn/v1"
    assert report["lessons"][0]["right"] == 1


def test_lessons_of_a_teachers_own_are_checked(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(home, lesson())
    assert run(["learn", "--check", str(home)]) == 0
    assert "1 lesson, 3 tasks" in capsys.readouterr().err
    write(home, lesson(titel="x"))
    assert run(["learn", "--check", str(home)]) == 2
    assert "lesson first: titel: is no field that there is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mode"], "lesson mode: there is none of that name; did you mean modes?"),
        (["modes", "--answer", "nonsense=A"], "'nonsense=A' answers none"),
        (["modes", "--answer", "both-ways"], "'both-ways' answers none"),
        (["none", "--reset"], "there is none of that name"),
    ],
)
def test_wrong_use_is_told(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["learn", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_what_cannot_be_read_can_be_forgotten() -> None:
    kept = ProgressFile()
    kept.home.mkdir(parents=True)
    kept.path.write_text("{")
    assert run(["learn"]) == 2
    assert run(["learn", "--reset"]) == 0
    assert run(["learn"]) == 0
