"""The format of a lesson: one YAML file, read strictly into these values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated

import msgspec

from troth.connect.report import Credentials
from troth.demo.scenario import Happened
from troth.errors import Flaw
from troth.policy.model import Mode
from troth.traffic.connection import Reason

POLICY_FILE = "policy.yaml"
"""Where a policy goes that isn't said to go elsewhere."""

Words = Annotated[str, msgspec.Meta(min_length=1)]
WorkloadName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+/[a-z0-9.-]+$")]
Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*\.yaml$")]
Key = Annotated[str, msgspec.Meta(pattern=r"^[A-F]$")]

FORGED = frozenset({Credentials.EXPIRED, Credentials.FOREIGN_CA})
"""Credentials that claim an identity."""

HINTS = 3
"""From a nudge to nearly the answer."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Strict, so that a misspelt field is an error and not a missing text."""


class Level(StrEnum):
    """How hard a task is."""

    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"

    @property
    def points(self) -> int:
        """What a task of this level counts."""
        return {Level.EASY: 1, Level.MEDIUM: 2, Level.HARD: 3}[self]


class Actor(StrEnum):
    """Who does a step: service A connects, service B is connected to."""

    A = "A"
    B = "B"
    BOTH = "both"


class CertificateAge(StrEnum):
    """What became of a server's certificate while its life went on."""

    SAME = "same"
    RENEWED = "renewed"


class Expectation(_Part, frozen=True, kw_only=True):
    """What a connection comes to; what is left out may be anything.

    Attributes:
        happens: What became of it.
        answers: What the server's app said: its name, in the meshes that come with troth.
        identity: The service account that the server saw, ``NAMESPACE/NAME``; ``none`` for none.
        reason: Why it was refused.
        mode: The mode of the port it went to.
        decided_by: The policy that decided, ``NAMESPACE/NAME``, or ``default``.
        alert: The TLS alert that the server sent (RFC 8446, section 6); ``none`` for none.
        wire: What was on the wire in this order, each ``client`` or ``server`` and a message.
        certificate: Of a try that waits for renewal: whether the server shows another one.
        ready: Of a try that looks at the audit: whether the destination is ready for STRICT.
    """

    happens: Happened | None = None
    answers: str | None = None
    identity: str | None = None
    reason: Reason | None = None
    mode: Mode | None = None
    decided_by: str | None = None
    alert: str | None = None
    wire: tuple[Words, ...] = ()
    certificate: CertificateAge | None = None
    ready: bool | None = None


class LessonTry(_Part, frozen=True, kw_only=True):
    """A connection to make.

    Attributes:
        source: The workload that connects (``from`` in YAML).
        to: The Service or workload that it connects to, and ``port`` the port of that.
        shows: What the client shows to the tunnel's port itself; None for an ordinary request,
            which the pod's proxy, if it has one, carries as the policies say.
        claims: Whose identity a forged certificate claims.
        past_proxy: Make it past the client's proxy, as if that weren't there.
        awaits_renewal: Make it once more when the server's certificate has been renewed; needs
            ``shows``.
        audits: Make it, and look then at what `troth audit` says of the destination.
        should: What the task wants to become of it.
    """

    source: WorkloadName = msgspec.field(name="from")
    to: WorkloadName
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    shows: Credentials | None = None
    claims: WorkloadName | None = None
    past_proxy: bool = False
    awaits_renewal: bool = False
    audits: bool = False
    should: Expectation | None = None


class Written(_Part, frozen=True, kw_only=True):
    """What stands in the lesson's folder besides the mesh's own manifests.

    Attributes:
        policy: The text of ``policy.yaml``.
        files: Texts by name of file; one of the mesh's own is replaced.
    """

    policy: str = ""
    files: Mapping[FileName, str] = {}

    @property
    def texts(self) -> dict[str, str]:
        """All of it by name of file."""
        own = {POLICY_FILE: self.policy} if self.policy else {}
        return {**own, **self.files}


class Choice(Written, frozen=True, kw_only=True):
    """One of the answers to a question: a change that is made, a prediction, or both.

    Attributes:
        text: What the learner reads.
        predicts: What becomes of the task's tries, in their order, if it is right.
        mistake: The mistake that makes people choose it; empty for the right one.
    """

    text: Words
    predicts: tuple[Expectation, ...] = ()
    mistake: str = ""


class Mistake(Written, frozen=True, kw_only=True):
    """A common wrong answer to a task that has a manifest written."""

    mistake: Words


class Task(Written, frozen=True, kw_only=True):
    """A question with options, or a manifest to write; judged by what the mesh then does.

    Attributes:
        id: Its name in the lesson.
        topic: What the score counts it under; the lesson's if empty.
        ask: The task.
        tries: The connections that judge the answer.
        options: The answers to choose from; none where a manifest is to be written.
        answer: The right one of these. It only words the solution: the mesh judges.
        file: The file that is to be written.
        starts: What stands in it at first.
        manifest: What it should be, or something that does the same.
        mistakes: Common wrong ones.
        hints: Three, from a nudge to nearly the answer.
        solution: How one gets there.
    """

    id: Slug
    level: Level
    topic: str = ""
    ask: Words
    tries: Annotated[tuple[LessonTry, ...], msgspec.Meta(min_length=1)]
    options: Mapping[Key, Choice] = {}
    answer: Key | None = None
    file: FileName = POLICY_FILE
    starts: str = ""
    manifest: str = ""
    mistakes: tuple[Mistake, ...] = ()
    hints: tuple[Words, ...]
    solution: Words

    @property
    def to_write(self) -> bool:
        """Whether the answer is a manifest."""
        return not self.options


class FlowStep(_Part, frozen=True, kw_only=True):
    """A step of the process between service A and service B."""

    who: Actor
    does: Words


class Tracked(_Part, frozen=True, kw_only=True):
    """The three variables of the tracker at one moment."""

    a_certificate: Words
    b_certificate: Words
    connection: Words


class LessonStep(Tracked, frozen=True, kw_only=True):
    """A row of the table of steps, with the tracker after it."""

    action: Words
    a: Words
    b: Words
    result: Words


class KeyMoment(Written, frozen=True, kw_only=True):
    """Something that learners get wrong, why it is so, and the connections that prove it.

    Attributes:
        asks: The question behind it.
        why: The answer.
        tries: Connections whose ``should`` proves it; the change is made before.
    """

    asks: Words
    why: Words
    tries: tuple[LessonTry, ...] = ()


class Played(_Part, frozen=True, kw_only=True):
    """A handshake to step through, and impostors to show beside it.

    Attributes:
        source: The client (``from`` in YAML).
        to: The server, and ``port`` its port.
        impostors: What others show instead of the client's own certificate.
    """

    source: WorkloadName = msgspec.field(name="from")
    to: WorkloadName
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    impostors: tuple[Credentials, ...] = ()


class Lesson(Written, frozen=True, kw_only=True):
    """A lesson.

    Attributes:
        title: What it is about.
        order: Its place in the course.
        topic: What the score counts its tasks under.
        question: What the learner can answer afterwards.
        mesh: The folder of manifests in ``meshes`` that is run.
        certificate_lifetime: Seconds that certificates live in it.
        a: The workload that is service A; ``b`` the one that is service B.
        flow: The process between the two.
        tries: Connections that show what the lesson's policy does.
        start: The tracker before the first step.
        steps: The process as a table.
        handshake: One to step through.
        moments: What learners get wrong.
        questions: On the picture: the flow, the table and the tracker.
        snapshot: The whole in a few lines.
        transcript: The whole in prose.
        tasks: From easy to hard.
    """

    title: Words
    order: int
    topic: Words
    question: Words
    mesh: Slug
    certificate_lifetime: Annotated[int, msgspec.Meta(ge=10)] = 12 * 3600
    a: WorkloadName
    b: WorkloadName
    flow: Annotated[tuple[FlowStep, ...], msgspec.Meta(min_length=2)]
    tries: Annotated[tuple[LessonTry, ...], msgspec.Meta(min_length=1)]
    start: Tracked
    steps: Annotated[tuple[LessonStep, ...], msgspec.Meta(min_length=2)]
    handshake: Played | None = None
    moments: Annotated[tuple[KeyMoment, ...], msgspec.Meta(min_length=1)]
    questions: Annotated[tuple[Task, ...], msgspec.Meta(min_length=1)]
    snapshot: Annotated[tuple[Words, ...], msgspec.Meta(min_length=1)]
    transcript: Words
    tasks: Annotated[tuple[Task, ...], msgspec.Meta(min_length=1)]

    @property
    def all_tasks(self) -> tuple[Task, ...]:
        """What is asked, in order."""
        return (*self.questions, *self.tasks)


def flaws(lesson: Lesson) -> Iterator[Flaw]:
    """What is wrong with a lesson whose fields are right each by itself."""
    seen: set[str] = set()
    for name, tasks in (("questions", lesson.questions), ("tasks", lesson.tasks)):
        for number, task in enumerate(tasks):
            path = f"{name}[{number}]"
            if task.id in seen:
                yield Flaw(f"another task is called {task.id!r}", "name each once", f"{path}.id")
            seen.add(task.id)
            for flaw in _task_flaws(task):
                yield Flaw(flaw.found, flaw.wanted, f"{path}{flaw.path}")
    levels = [list(Level).index(task.level) for task in lesson.tasks]
    if levels != sorted(levels):
        yield Flaw("a task stands before an easier one", "order them easy, medium, hard", "tasks")
    for number, question in enumerate(lesson.questions):
        if question.to_write:
            wanted = "give it options, or put it among the tasks"
            yield Flaw("asks for a manifest", wanted, f"questions[{number}]")
    yield from _shown_flaws("tries", lesson.tries)
    for number, moment in enumerate(lesson.moments):
        yield from _shown_flaws(f"moments[{number}].tries", moment.tries)


def _shown_flaws(path: str, tries: tuple[LessonTry, ...]) -> Iterator[Flaw]:
    """What is wrong with connections that are to show something."""
    for number, each in enumerate(tries):
        if each.should is None:
            yield Flaw("is missing", "say what happens", f"{path}[{number}].should")
        yield from _try_flaws(each, f"{path}[{number}]")


def _task_flaws(task: Task) -> Iterator[Flaw]:
    if len(task.hints) != HINTS:
        found = f"there are {len(task.hints)}"
        yield Flaw(found, f"give {HINTS}, from a nudge to nearly the answer", ".hints")
    for number, each in enumerate(task.tries):
        yield from _try_flaws(each, f".tries[{number}]")
    if task.to_write:
        yield from _writing_flaws(task)
    else:
        yield from _choice_flaws(task)


def _writing_flaws(task: Task) -> Iterator[Flaw]:
    if not task.manifest:
        yield Flaw("is missing", "give the manifest that solves it, or options", ".manifest")
    if task.answer is not None:
        yield Flaw("has no options to name one of", "give options, or leave it out", ".answer")
    if not task.mistakes:
        yield Flaw("are missing", "give at least one common wrong manifest", ".mistakes")
    for number, mistake in enumerate(task.mistakes):
        if task.file not in mistake.texts:
            yield Flaw(f"doesn't write {task.file}", "give what is wrong", f".mistakes[{number}]")
    if not any(each.should for each in task.tries):
        yield Flaw("nothing is wanted of any", "give at least one a `should`", ".tries")


def _choice_flaws(task: Task) -> Iterator[Flaw]:
    if task.answer not in task.options:
        yield Flaw("is none of the options", "name one of them", ".answer")
    if len(task.options) < 2:  # noqa: PLR2004 - or there is nothing to choose
        yield Flaw("there is only one", "give at least two", ".options")
    if task.mistakes or task.manifest or task.starts:
        wanted = "leave out mistakes, manifest and starts, or leave out the options"
        yield Flaw("has options and a manifest to write", wanted)
    for key, option in task.options.items():
        path = f".options.{key}"
        if key != task.answer and not option.mistake:
            yield Flaw("is missing", "say what makes people choose it", f"{path}.mistake")
        if option.predicts and len(option.predicts) != len(task.tries):
            found = f"there are {len(option.predicts)} of them, and {len(task.tries)} tries"
            yield Flaw(found, "give one for each of the task's tries", f"{path}.predicts")
        applied = option.texts and any(each.should for each in task.tries)
        if not option.predicts and not applied:
            yield Flaw(
                "can't be judged by the mesh",
                "give `predicts`, or a `policy` and a `should` of the task's tries",
                path,
            )


def _try_flaws(tried: LessonTry, path: str) -> Iterator[Flaw]:
    if tried.claims and tried.shows not in FORGED:
        yield Flaw(
            "nothing forged is shown", "let `shows` be expired or foreign-ca", f"{path}.claims"
        )
    if tried.past_proxy and tried.shows:
        yield Flaw(
            "a handshake is made past the proxy anyway", "leave it out", f"{path}.past_proxy"
        )
    if tried.awaits_renewal and not tried.shows:
        wanted = "let `shows` be own"
        yield Flaw("only a handshake shows certificates", wanted, f"{path}.awaits_renewal")
