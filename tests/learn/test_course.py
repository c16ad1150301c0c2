"""Reading lessons, and what is said of those that are not as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.learn.lessons import POLICY, TRY, lesson, question, write, writing

from troth.errors import InputError
from troth.learn.course import check_course, read_course, read_lesson
from troth.learn.lesson import HINTS, Level

if TYPE_CHECKING:
    from troth.learn.course import Course


@pytest.fixture(scope="module")
def course() -> Course:
    return check_course(read_course().directory)


def complaint(directory: Path, value: object) -> str:
    with pytest.raises(InputError) as raised:
        read_lesson(write(directory, value))
    problem = raised.value.problems[0]
    return f"{problem.path}: {problem.found}; {problem.wanted}"


def test_a_lesson_with_all_its_parts_is_read(tmp_path: Path) -> None:
    assert read_lesson(write(tmp_path, lesson())).title == "A lesson"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"title": 3}, "title: is of the type int; give one of the type str"),
        ({"title": ""}, "title: is empty or too short; let its length be >= 1"),
        ({"titel": "x"}, "titel: is no field that there is; leave it out"),
        ({"a": "till"}, "a: is not written as it should be; write it so that it matches"),
        ({"tasks": [question(level="simple")]}, "tasks[0].level: can't be 'simple'"),
        ({"tasks": [question(answer="C")]}, "tasks[0].answer: is none of the options"),
        ({"tasks": [question(hints=["one"])]}, f"tasks[0].hints: there are 1; give {HINTS}"),
        ({"tasks": [question("picture")]}, "tasks[0].id: another task is called 'picture'"),
        ({"tasks": [question(manifest=POLICY)]}, "tasks[0]: has options and a manifest to write"),
        ({"tasks": [writing(manifest="")]}, "tasks[0].manifest: is missing"),
        ({"tasks": [writing(mistakes=[])]}, "tasks[0].mistakes: are missing"),
        ({"tasks": [writing(tries=[TRY])]}, "tasks[0].tries: nothing is wanted of any"),
        ({"tasks": [writing(file="x.yaml")]}, "tasks[0].mistakes[0]: doesn't write x.yaml"),
        ({"questions": [writing("w")]}, "questions[0]: asks for a manifest"),
        ({"tries": [TRY]}, "tries[0].should: is missing; say what happens"),
        ({"tasks": [question(), question("x", level="hard"), question("z")]}, "tasks: a task"),
        (
            {"tasks": [question(tries=[{**TRY, "claims": "shop/till"}])]},
            "tasks[0].tries[0].claims: nothing forged is shown",
        ),
        (
            {"tasks": [question(tries=[{**TRY, "awaits_renewal": True}])]},
            "tasks[0].tries[0].awaits_renewal: only a handshake shows certificates",
        ),
        (
            {"tasks": [question(tries=[{**TRY, "shows": "own", "past_proxy": True}])]},
            "tasks[0].tries[0].past_proxy: a handshake is made past the proxy anyway",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_field_with_what_would_be_right(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    assert complaint(tmp_path, lesson(**changes)).startswith(said)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"text": "out", "predicts": [{"happens": "refused"}]}, ".B.mistake: is missing"),
        ({"text": "out", "mistake": "no"}, ".B: can't be judged by the mesh"),
        ({"text": "out", "mistake": "no", "policy": POLICY}, ".B: can't be judged by the mesh"),
        (
            {"text": "out", "mistake": "no", "predicts": [{}, {}]},
            ".B.predicts: there are 2 of them, and 1 tries",
        ),
    ],
)
def test_an_option_says_what_it_predicts_or_changes(
    tmp_path: Path, option: dict[str, Any], said: str
) -> None:
    task = question()
    task["options"]["B"] = option
    found = complaint(tmp_path, lesson(tasks=[task]))
    assert found.startswith(f"tasks[0].options{said}")


def test_a_problem_has_the_line_of_its_field(tmp_path: Path) -> None:
    file = write(tmp_path, lesson(title=3))
    with pytest.raises(InputError) as raised:
        read_lesson(file)
    assert str(raised.value).startswith(f"{file}:1: lesson first: title: ")


def test_a_workload_that_the_mesh_lacks_is_named_with_one_that_it_has(tmp_path: Path) -> None:
    write(tmp_path, lesson(a="shop/tills"))
    with pytest.raises(InputError, match=r"no workload or Service shop/tills.*shop/till"):
        check_course(tmp_path)


def test_a_mesh_that_there_is_not_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    write(tmp_path, lesson(mesh="banks"))
    with pytest.raises(InputError, match="there is no mesh 'banks'; name one of: bank"):
        check_course(tmp_path)


def test_a_right_manifest_that_is_wrong_is_found(tmp_path: Path) -> None:
    write(tmp_path, lesson(tasks=[writing(manifest=POLICY.replace("STRICT", "STRIKT"))]))
    with pytest.raises(InputError, match=r"tasks\[0\]\.manifest.*STRIKT"):
        check_course(tmp_path)


def test_a_directory_without_lessons_is_no_course(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no lessons in it"):
        read_course(tmp_path)
    with pytest.raises(InputError, match="is none; name a directory of lessons"):
        read_course(tmp_path / "none")


@pytest.mark.parametrize("name", ["..", "a\nb", "progress.json"])
def test_a_lessons_name_leads_to_no_other_folder_than_its_own(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, lesson(), name)
    with pytest.raises(InputError, match="rename its file"):
        read_course(file.parent)


def test_an_unknown_lesson_is_named_with_one_that_is_near(course: Course) -> None:
    with pytest.raises(InputError, match="mode"):
        course.lesson("mode")


def test_every_lesson_that_is_shipped_is_as_it_should_be(course: Course) -> None:
    assert "mutual-tls" in course.lessons
    assert all(course.manifests(each) for each in course.lessons.values())


def test_there_are_tasks_of_every_level_in_every_lesson(course: Course) -> None:
    for name, each in course.lessons.items():
        assert {task.level for task in each.tasks} == set(Level), name
        assert any(task.to_write for task in each.tasks), name


def test_there_is_enough_to_practise_of_both_kinds(course: Course) -> None:
    tasks = [task for each in course.lessons.values() for task in each.tasks]
    assert len(tasks) >= 40
    assert sum(task.to_write for task in tasks) >= 10


def test_every_lesson_is_listed_for_learners(course: Course) -> None:
    page = Path(__file__).parents[2] / "docs" / "learn.md"
    text = page.read_text("utf-8")
    assert [name for name in course.lessons if f"| `{name}` |" not in text] == []
