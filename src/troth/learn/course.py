"""Lessons on disk: where they are, how they are read, and what is wrong with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.errors import InputError, Location, Problem
from troth.learn.lesson import POLICY_FILE, Lesson, Written, flaws
from troth.manifests.files import STDIN, load
from troth.manifests.yaml import read_documents
from troth.syntax import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.learn.lesson import Task
    from troth.manifests.yaml import Document

MESHES = "meshes"
_SHIPPED = Path(__file__).resolve().parent / "lessons"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_INVALID = re.compile(r"^(?P<found>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MESSAGES = (
    (
        re.compile(r"unknown field `(?P<field>[^`]*)`"),
        "is no field that there is",
        "leave it out, or see docs/learn.md",
    ),
    (
        re.compile(r"missing required field `(?P<field>[^`]*)`"),
        "is missing",
        "give it; docs/learn.md says what it is",
    ),
    (
        re.compile(r"Expected `str` matching regex '(?P<value>.*)'$"),
        "is not written as it should be",
        "write it so that it matches {value}",
    ),
    (
        re.compile(r"Expected `\w+` of length (?P<value>.*)$"),
        "is empty or too short",
        "let its length be {value}",
    ),
    (
        re.compile(r"Expected `(?P<value>[^`]*)`, got `(?P<got>[^`]*)`"),
        "is of the type {got}",
        "give one of the type {value}",
    ),
    (
        re.compile(r"Invalid enum value (?P<got>.*)$"),
        "can't be {got}",
        "docs/learn.md lists what it can be",
    ),
)
"""What msgspec says, what that means, and what would be right."""


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """The lessons of one directory, by name and in order.

    Attributes:
        directory: Where they are.
    """

    directory: Path
    lessons: dict[str, Lesson]

    def lesson(self, name: str) -> Lesson:
        """The lesson of that name.

        Raises:
            InputError: There is none.
        """
        if name in self.lessons:
            return self.lessons[name]
        wanted = nearest(name, self.lessons) or f"there are: {', '.join(self.lessons)}"
        raise InputError([_problem(f"lesson {name}", "", "there is none of that name", wanted)])

    def manifests(self, lesson: Lesson) -> dict[str, str]:
        """The manifests of a lesson's mesh, by name of file."""
        place = _mesh(self.directory, lesson.mesh)
        files = sorted(place.glob("*.yaml")) if place else ()
        return {file.name: file.read_text("utf-8") for file in files}


def read_course(directory: Path | None = None) -> Course:
    """Read a course; without ``directory`` the one that comes with troth.

    Raises:
        InputError: It has none, or a lesson is not as it should be; every problem is listed.
    """
    directory = directory or _SHIPPED
    lessons: dict[str, Lesson] = {}
    problems: list[Problem] = []
    for file in _files(directory):
        try:
            lessons[file.stem] = read_lesson(file)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    if not lessons:
        wanted = "name a directory with lessons (*.yaml); docs/learn.md has the format"
        raise InputError([_problem(f"directory {directory}", "", "has no lessons in it", wanted)])
    ordered = sorted(lessons.items(), key=lambda each: (each[1].order, each[0]))
    return Course(directory=directory, lessons=dict(ordered))


def read_lesson(file: Path) -> Lesson:
    """Read one lesson.

    Raises:
        InputError: It is not as it should be.
    """
    subject = f"lesson {file.stem}"
    # Of the name a folder is made, whose manifests are replaced.
    if not _NAME.fullmatch(file.stem):
        subject = f"lesson {file.stem!r}"
        found, wanted = "can't be called so", "rename its file, such as my-lesson.yaml"
        raise InputError([_problem(subject, "", found, wanted)])
    try:
        documents, problems = read_documents(file.read_bytes(), str(file))
    except OSError as error:
        found = f"can't be read: {error.strerror}"
        raise InputError([_problem(subject, "", found, "correct its permissions")]) from error
    if problems:
        raise InputError(problems)
    if len(documents) != 1:
        wanted = "give one lesson in each file"
        raise InputError(
            [_problem(subject, "", f"there are {len(documents)} YAML documents", wanted)]
        )
    document = documents[0]
    try:
        lesson = msgspec.convert(document.value, Lesson)
    except msgspec.ValidationError as error:
        found, wanted, path = _explained(str(error))
        raise InputError([_problem(subject, path, found, wanted, document)]) from None
    found_in = [
        _problem(subject, flaw.path, flaw.found, flaw.wanted, document) for flaw in flaws(lesson)
    ]
    if found_in:
        raise InputError(found_in)
    return lesson


def check_course(directory: Path) -> Course:
    """Read a course and what its lessons refer to: their meshes, and the manifests in them.

    Raises:
        InputError: As of `read_course`.
    """
    course = read_course(directory)
    problems: list[Problem] = []
    for name, lesson in course.lessons.items():
        file = directory / f"{name}.yaml"
        document = read_documents(file.read_bytes(), str(file))[0][0]
        problems += _mesh_problems(f"lesson {name}", directory, lesson, document)
    if problems:
        raise InputError(problems)
    return course


def _files(directory: Path) -> Iterable[Path]:
    if not directory.is_dir():
        wanted = "name a directory of lessons"
        raise InputError([_problem(f"directory {directory}", "", "is none", wanted)])
    return sorted(directory.glob("*.yaml"))


def _mesh(directory: Path, name: str) -> Path | None:
    """The folder of a mesh: of the course's own, or of one that comes with troth."""
    places = (directory / MESHES / name, _SHIPPED / MESHES / name)
    return next((place for place in places if place.is_dir()), None)


def _mesh_problems(
    subject: str, directory: Path, lesson: Lesson, document: Document
) -> Iterator[Problem]:
    """What of the lesson's mesh, or of the manifests it has written, isn't there or isn't right."""
    place = _mesh(directory, lesson.mesh)
    if place is None:
        roots = {directory / MESHES, _SHIPPED / MESHES}
        there = sorted({each.name for root in roots for each in root.glob("*") if each.is_dir()})
        found, wanted = f"there is no mesh {lesson.mesh!r}", f"name one of: {', '.join(there)}"
        yield _problem(subject, "mesh", found, wanted, document)
        return
    manifests = load([place])
    yield from manifests.problems
    names = {*manifests.pods, *manifests.deployments, *manifests.services}
    for path, name in _workloads(lesson):
        if name not in names:
            wanted = nearest(name, names) or f"name one of: {', '.join(sorted(names))}"
            found = f"the mesh {lesson.mesh} has no workload or Service {name}"
            yield _problem(subject, path, found, wanted, document)
    for path, change in _changes(lesson):
        for file, text in change.texts.items():
            for problem in load([STDIN], text.encode()).problems:
                where = path or ("policy" if file == POLICY_FILE else f"files.{file}")
                found = f"{problem.subject}: {problem.path}: {problem.found}"
                yield _problem(subject, where, found, problem.wanted, document)


def _workloads(lesson: Lesson) -> Iterator[tuple[str, str]]:
    yield from (("a", lesson.a), ("b", lesson.b))
    tries = [("tries", lesson.tries)]
    tries += [(f"moments[{n}].tries", each.tries) for n, each in enumerate(lesson.moments)]
    tries += [(f"{path}.tries", task.tries) for path, task in _tasks(lesson)]
    for path, several in tries:
        for number, each in enumerate(several):
            yield f"{path}[{number}].from", each.source
            yield f"{path}[{number}].to", each.to
            if each.claims:
                yield f"{path}[{number}].claims", each.claims
    if lesson.handshake:
        yield "handshake.from", lesson.handshake.source
        yield "handshake.to", lesson.handshake.to


def _changes(lesson: Lesson) -> Iterator[tuple[str, Written]]:
    """What is written of right manifests; wrong ones are to be allowed to be wrong."""
    yield "", lesson
    for number, moment in enumerate(lesson.moments):
        yield f"moments[{number}]", moment
    for path, task in _tasks(lesson):
        yield path, task
        if task.manifest:
            yield f"{path}.manifest", Written(files={task.file: task.manifest})
        if task.answer and not task.options[task.answer].predicts:
            yield f"{path}.options.{task.answer}", task.options[task.answer]


def _tasks(lesson: Lesson) -> Iterator[tuple[str, Task]]:
    for name, tasks in (("questions", lesson.questions), ("tasks", lesson.tasks)):
        for number, task in enumerate(tasks):
            yield f"{name}[{number}]", task


def _explained(message: str) -> tuple[str, str, str]:
    """What msgspec found, what would be right, and at which path."""
    match = _INVALID.match(message)
    found, path = (match["found"], match["path"] or "") if match else (message, "")
    for pattern, meaning, wanted in _MESSAGES:
        if said := pattern.search(found):
            words = said.groupdict()
            path = f"{path}.{words['field']}".lstrip(".") if "field" in words else path
            return meaning.format(**words), wanted.format(**words), path
    return found, "see docs/learn.md", path


def _problem(
    subject: str, path: str, found: str, wanted: str, document: Document | None = None
) -> Problem:
    place: Location | None = document.place(path) if document else None
    return Problem(subject=subject, path=path, found=found, wanted=wanted, location=place)
