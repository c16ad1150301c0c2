"""A lesson on a running mesh: its folder, what is put into force there, and what then happens."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import msgspec

from troth.ask.by_socket import SocketConnector
from troth.connect.report import Credentials, Trace
from troth.control.protocol import ask
from troth.control.state_dir import Settings, StateDirectory
from troth.demo.mesh import OwnMesh, all_ready
from troth.demo.scenario import Happened
from troth.demo.walk import SeenConnection, seen_of_attempt, seen_of_trace
from troth.errors import PeerError, Problem, Severity
from troth.explain.audit_report import Audit
from troth.explain.explain import Derivation, Explanation, explain
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain
from troth.learn.lesson import FORGED, CertificateAge, Expectation, LessonTry, Written
from troth.learn.outcome import Observation, differences, observed
from troth.manifests.files import STDIN, load
from troth.mesh.world import DEFAULT_ROOT_NAMESPACE
from troth.traffic.connection import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from troth.connect.findings import Attempt, Way
    from troth.control.messages import MeshStatus
    from troth.learn.lesson import Lesson, Played, Task
    from troth.manifests.collect import Manifests

# Envoy acknowledges a policy a few milliseconds before its workers go by it. So a connection that
# comes out otherwise than the mesh itself says is made again; what counts is what holds after that.
_SETTLE_SECONDS = 5.0
_AGAIN_SECONDS = 0.05
_TRY_SECONDS = 5.0
_RENEWAL_SECONDS = 60.0
_AUDIT_SECONDS = 7 * 24 * 3600
_MANIFESTS = ("*.yaml", "*.yml", "*.json")


class TryResult(msgspec.Struct, frozen=True, kw_only=True):
    """One connection of a task: what was expected of it, what happened, and why.

    Attributes:
        tried: The connection.
        expected: What the learner's answer means should happen.
        observed: What did.
        differs: How that differs; empty when it doesn't.
        cause: Why it was refused or failed, as `troth why` says; empty where it wasn't.
        remedy: What would let it in.
    """

    tried: LessonTry
    expected: Expectation | None
    observed: Observation
    differs: tuple[str, ...] = ()
    cause: str = ""
    remedy: str = ""


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the mesh made of an answer.

    Attributes:
        task: Its id.
        answer: The option, or the manifest that was written.
        right: Every connection came out as the answer, and the task, want it.
        refused: What the mesh doesn't take of the manifest.
        tries: The connections.
        explained: How the mesh derives the mode of each workload that was connected to.
    """

    task: str
    answer: str
    right: bool
    refused: tuple[Problem, ...]
    tries: tuple[TryResult, ...]
    explained: tuple[Explanation, ...]


class Classroom(OwnMesh):
    """A lesson's mesh. It follows a folder that the learner edits.

    Args:
        lesson: The lesson.
        manifests: Those of its mesh, by name of file.
        folder: Where they are put; manifests that stand there already are removed.
        state: Where the mesh keeps its state.
    """

    def __init__(
        self, lesson: Lesson, manifests: Mapping[str, str], *, folder: Path, state: StateDirectory
    ) -> None:
        self.lesson = lesson
        self.folder = folder
        self._manifests = dict(manifests)
        folder.mkdir(parents=True, exist_ok=True)
        self._write({})
        settings = Settings(
            paths=(str(folder),),
            uplink=False,
            certificate_lifetime_seconds=lesson.certificate_lifetime,
        )
        super().__init__(settings, state)
        self._connector = SocketConnector(state.control)

    def show(self) -> tuple[TryResult, ...]:
        """Put the lesson's own policy into force, and make its connections."""
        self.put(self.lesson)
        return self.make(self.lesson.tries)

    def put(self, change: Written) -> tuple[Problem, ...]:
        """Have the mesh's manifests and this change in the folder, and wait until it is in force.

        Returns:
            What the mesh doesn't take of it.

        Raises:
            TrothError: The mesh broke down.
        """
        if any(load([STDIN], text.encode()).problems for text in change.texts.values()):
            # Of what can't be taken the last good version would stay, and that is another task's.
            self._write({})
            self.settle()
        self._write(change.texts)
        return self.settle()

    def set_up(self, task: Task) -> None:
        """Put a task's situation into force, with the file to write as it begins."""
        starts = {task.file: task.starts} if task.to_write and task.starts else {}
        self.put(Written(files={**task.texts, **starts}))

    def choose(self, task: Task, key: str) -> TaskResult:
        """Have an option of a question tried.

        Raises:
            TrothError: The mesh broke down.
        """
        option = task.options[key]
        refused = self.put(Written(files={**task.texts, **option.texts}))
        expected = [
            _both(predicted, each.should if option.texts else None)
            for predicted, each in zip(
                option.predicts or [None] * len(task.tries), task.tries, strict=True
            )
        ]
        result = self._judged(task, key, refused, expected)
        if option.predicts and refused:  # what is predicted is what becomes of a broken manifest
            right = not any(each.differs for each in result.tries)
            return msgspec.structs.replace(result, right=right)
        return result

    def hand_in(self, task: Task, text: str | None = None) -> TaskResult:
        """Have a manifest tried: ``text``, or the file as it stands in the folder.

        Raises:
            TrothError: The mesh broke down.
        """
        file = self.folder / task.file
        if text is not None:
            # What the file said before must not count for one that can't be read.
            before = self._manifests.get(task.file)
            if before is None:
                file.unlink(missing_ok=True)
            else:
                self._replace(task.file, before)
            self.settle()
            self._replace(task.file, text)
        try:
            refused = self.settle()
        except PeerError as error:  # such as a pod that doesn't become ready
            wanted = "see what it waits for: troth status"
            refused = (Problem(subject=task.file, path="", found=error.reason, wanted=wanted),)
        answer = file.read_text("utf-8", errors="replace") if file.exists() else ""
        return self._judged(task, answer, refused, [each.should for each in task.tries])

    def make(
        self, tries: Sequence[LessonTry], expected: Sequence[Expectation | None] | None = None
    ) -> tuple[TryResult, ...]:
        """Make connections, and see what becomes of them."""
        wanted = expected or [each.should for each in tries]
        return tuple(
            self._make(each, expectation) for each, expectation in zip(tries, wanted, strict=True)
        )

    def play(self, played: Played, credentials: Credentials = Credentials.OWN) -> Trace:
        """Record a handshake to step through."""
        claim = played.source if credentials in FORGED else None
        return self._connector.trace(
            played.source, played.to, played.port, credentials=credentials, claim=claim
        )

    def settle(self) -> tuple[Problem, ...]:
        """Wait until what stands in the folder is in force; what the mesh doesn't take of it.

        Raises:
            TrothError: The mesh broke down.
        """
        manifests = load([self.folder])
        errors = tuple(each for each in manifests.problems if each.severity is Severity.ERROR)
        if errors:
            wanted = set(map(str, errors))
            self.wait_until(
                lambda status: status.ready and wanted <= set(map(str, status.problems)),
                complaint="the mesh has not seen the manifests",
            )
            return errors
        names = sorted({*manifests.pods, *manifests.deployments})
        expected = {name: _derived(manifests, name) for name in names}
        self.wait_until(
            lambda status: (
                all_ready(status) and self._explains(expected) and self._leads(manifests, status)
            ),
            complaint="the manifests are not in force",
        )
        # Explained is what was read; a status of later is of what has been acted on.
        self.wait_until(all_ready, complaint="the manifests are not in force")
        return ()

    def explain(self, name: str) -> Derivation:
        """How the mesh derives the modes of a workload."""
        return ask(self.state.control, "explain", Derivation, name=name)

    def _explains(self, expected: Mapping[str, Derivation]) -> bool:
        """Whether the mesh derives the same from what it has read."""
        try:
            return all(self.explain(name) == each for name, each in expected.items())
        except PeerError:  # it has not read of that workload yet
            return False

    def _leads(self, manifests: Manifests, status: MeshStatus) -> bool:
        """Whether each Service leads to the workloads that it selects."""
        labels = {
            **{name: each.labels for name, each in manifests.pods.items()},
            **{name: each.template.labels for name, each in manifests.deployments.items()},
        }
        workloads = {f"{pod.namespace}/{pod.name}": pod.workload for pod in status.pods}
        source = next(iter(workloads), "")
        for key, service in manifests.services.items() if source else ():
            if not (service.selector and service.ports):
                continue
            selected = {
                name
                for name, has in labels.items()
                if name.startswith(f"{service.namespace}/")
                and service.selector.items() <= has.items()
            }
            ways = self._connector.route(source, key, service.ports[0].number).ways
            if {workloads.get(way.client.destination or "") for way in ways} != selected:
                return False
        return True

    def _judged(
        self,
        task: Task,
        answer: str,
        refused: tuple[Problem, ...],
        expected: Sequence[Expectation | None],
    ) -> TaskResult:
        results = self.make(task.tries, expected)
        return TaskResult(
            task=task.id,
            answer=answer,
            right=not refused and not any(each.differs for each in results),
            refused=refused,
            tries=results,
            explained=tuple(self._explained(task.tries)),
        )

    def _explained(self, tries: Sequence[LessonTry]) -> Iterable[Explanation]:
        workloads = {f"{pod.namespace}/{pod.name}": pod.workload for pod in self.status().pods}
        seen: set[str] = set()
        for each in tries:
            ways = self._ways(each)
            name = workloads.get(ways[0].client.destination or "") if ways else None
            if name and name not in seen:
                seen.add(name)
                yield self.explain(name).explanation

    def _make(self, tried: LessonTry, expected: Expectation | None) -> TryResult:
        answers, trace = "", None
        try:
            if tried.shows is None:
                seen, answers = self._request(tried)
            else:
                trace = self._trace(tried)
                seen = seen_of_trace(trace)
        except PeerError as error:  # a learner's manifest may lack what is to connect
            seen = SeenConnection(Happened.FAILED, str(error), None)
        age = self._renewal(tried, trace) if tried.awaits_renewal and trace else None
        ready = self._ready(tried.to) if tried.audits else None
        what = observed(
            seen, trace.report if trace else None, answers=answers, certificate=age, ready=ready
        )
        cause = remedy = ""
        if seen.event is not None and seen.event.outcome.is_trouble:
            explained = self._connector.cause(seen.event)
            cause, remedy = explained.cause, explained.remedy
        return TryResult(
            tried=tried,
            expected=expected,
            observed=what,
            differs=tuple(differences(expected, what)) if expected else (),
            cause=cause,
            remedy=remedy,
        )

    def _request(self, tried: LessonTry) -> tuple[SeenConnection, str]:
        """Make an ordinary request; what became of it, and the body of the answer."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            attempt = self._connect(tried)
            seen = seen_of_attempt(attempt)
            unserved = seen.event is not None and seen.event.reason is Reason.APP_UNREACHABLE
            is_final = unserved or self._foreseen(tried) in {None, seen.happened}
            if is_final or time.monotonic() > deadline:
                return seen, attempt.reply.partition("\r\n\r\n")[2].strip()
            time.sleep(_AGAIN_SECONDS)

    def _connect(self, tried: LessonTry) -> Attempt:
        to, port = tried.to, tried.port
        if tried.past_proxy and (ways := self._ways(tried)):
            # The proxy balances services; past it there is nobody who does.
            to, port = ways[0].client.address, ways[0].client.port
        return self._connector.connect(
            tried.source, to, port, past_tunnel=tried.past_proxy, seconds=_TRY_SECONDS
        )

    def _trace(self, tried: LessonTry) -> Trace:
        return self._connector.trace(
            tried.source,
            tried.to,
            tried.port,
            credentials=tried.shows or Credentials.OWN,
            claim=tried.claims,
        )

    def _foreseen(self, tried: LessonTry) -> Happened | None:
        """What the mesh's own decisions lead to; None where they don't say."""
        ways = self._ways(tried)
        if not ways or ways[0].server.mode is None:
            return None
        if ways[0].client.tunnel and not tried.past_proxy:
            return Happened.TUNNEL
        return Happened.PLAINTEXT if ways[0].server.plaintext else Happened.REFUSED

    def _ways(self, tried: LessonTry) -> tuple[Way, ...]:
        """What both ends decide about it; nothing where one end isn't there."""
        try:
            return self._connector.route(tried.source, tried.to, tried.port).ways
        except PeerError:
            return ()

    def _renewal(self, tried: LessonTry, before: Trace) -> CertificateAge:
        deadline = time.monotonic() + _RENEWAL_SECONDS
        while time.monotonic() < deadline:
            if _serial(self._trace(tried)) != _serial(before):
                return CertificateAge.RENEWED
            time.sleep(_AGAIN_SECONDS)
        return CertificateAge.SAME

    def _ready(self, name: str) -> bool:
        audit = ask(self.state.control, "audit", Audit, seconds=_AUDIT_SECONDS)
        return any(
            f"{each.namespace}/{each.name}" == name and each.ready for each in audit.workloads
        )

    def _write(self, files: Mapping[str, str]) -> None:
        """Have exactly these files in the folder besides the mesh's own."""
        wanted = {**self._manifests, **files}
        for pattern in _MANIFESTS:
            for file in self.folder.glob(pattern):
                if file.name not in wanted:
                    file.unlink()
        for name, text in wanted.items():
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if (self.folder / name).read_text("utf-8") == text:
                    continue
            self._replace(name, text)

    def _replace(self, name: str, text: str) -> None:
        new = self.folder / f".{name}.new"  # hidden files are not read
        new.write_text(text, "utf-8")
        new.replace(self.folder / name)


def _derived(manifests: Manifests, name: str) -> Derivation:
    return explain(
        manifests,
        name,
        root_namespace=DEFAULT_ROOT_NAMESPACE,
        trust_domain=TrustDomain.parse(DEFAULT_TRUST_DOMAIN),
    )


def _both(first: Expectation | None, second: Expectation | None) -> Expectation | None:
    """What both want; the first where they differ."""
    if first is None or second is None:
        return first or second
    said = {
        name: value
        for each in (second, first)
        for name in each.__struct_fields__
        if (value := getattr(each, name)) not in {None, ()}
    }
    return Expectation(**said)


def _serial(trace: Trace) -> str:
    chain = trace.report.handshake.server_chain
    return chain[0].serial if chain else ""
