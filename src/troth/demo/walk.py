"""Going through the steps on a running mesh, and judging what became of each try."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from troth.connect.findings import Reached
from troth.connect.report import Credentials
from troth.demo.scenario import HANDSHAKE, STAGES, Happened
from troth.handshake.record import Kind, TlsRole, Verdict
from troth.handshake.steps import TraceReport
from troth.traffic.connection import Connection, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.connect.findings import Attempt
    from troth.connect.report import Trace
    from troth.demo.mesh import DemoMesh
    from troth.demo.scenario import Try

# Envoy acknowledges a policy a few milliseconds before its workers go by it. So a try that comes
# out otherwise is made again; what counts is what still holds after that.
_SETTLE_SECONDS = 3.0
_AGAIN_SECONDS = 0.05


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was applied.

    Attributes:
        file: Its path below ``examples``.
        manifest: Its text.
    """

    file: str
    manifest: str


class TryReport(msgspec.Struct, frozen=True, kw_only=True):
    """One connection: what was tried, what should have happened and what did.

    Attributes:
        credentials: What was shown to the tunnel port itself; None for an ordinary request.
        claim: Whose identity a forged certificate claimed.
        happened: What became of it, by what the client saw and what the server's proxy reports.
        detail: The same in words.
        differs: How that differs from what should have been; empty when it doesn't.
        event: What the proxy reports about this very connection: the mode, the policy that
            decided, the verified identity, the reason.
        ok: It came out as it should.
    """

    source: str
    destination: str
    port: int
    credentials: Credentials | None
    claim: str | None
    expected: Happened
    happened: Happened
    detail: str
    differs: tuple[str, ...]
    event: Connection | None
    ok: bool


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """One step; ``policy`` is None for a step without a policy."""

    number: int
    title: str
    says: str
    policy: Policy | None
    tries: tuple[TryReport, ...]
    ok: bool


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole demonstration; ``troth demo -o json`` prints exactly this.

    Attributes:
        ok: Everything came out as it should.
        handshake: The traced connection.
    """

    schema: Literal["troth/demo/v1"] = "troth/demo/v1"
    ok: bool
    steps: tuple[StepReport, ...]
    handshake: TraceReport


class SeenConnection(NamedTuple):
    """What became of a connection, by what the client saw and the server's proxy reports.

    Attributes:
        detail: The same in words.
        event: What the proxy reports about this very connection.
        alert: The TLS alert that the server sent; empty for none.
    """

    happened: Happened
    detail: str
    event: Connection | None
    alert: str = ""


def seen_of_attempt(attempt: Attempt) -> SeenConnection:
    """What became of an ordinary request."""
    event = attempt.event
    answer = _http_answer(attempt.reply)
    happened, detail = Happened.FAILED, attempt.detail or f"connection {attempt.reached}"
    if attempt.reached is Reached.ANSWERED:
        detail = answer
    match event.outcome if event else None, attempt.reached:
        case Outcome.ACCEPTED, Reached.ANSWERED:
            happened, detail = Happened.TUNNEL, f"{answer}, by the tunnel as {_peer(event)}"
        case Outcome.PLAINTEXT, Reached.ANSWERED:
            happened, detail = Happened.PLAINTEXT, f"{answer}, in plaintext"
        case Outcome.REFUSED, Reached.RESET | Reached.CLOSED:
            happened = Happened.REFUSED
            detail = f"refused: {_reason(event)} ({detail[:1].lower()}{detail[1:]})"
    return SeenConnection(happened, detail, event)


def seen_of_trace(trace: Trace) -> SeenConnection:
    """What became of a traced handshake."""
    report = trace.report
    happened = {
        Verdict.ACCEPTED: Happened.TUNNEL,
        Verdict.REFUSED: Happened.REFUSED,
        Verdict.UNDECIDED: Happened.FAILED,
    }[report.verdict]
    return SeenConnection(happened, report.reason, trace.event, _alert(report))


def judge_attempt(tried: Try, attempt: Attempt) -> TryReport:
    """Judge an ordinary request: by what the client saw and the proxy reports, both."""
    return _report(tried, seen_of_attempt(attempt))


def judge_trace(tried: Try, trace: Trace) -> TryReport:
    """Judge a traced handshake."""
    return _report(tried, seen_of_trace(trace))


def _report(tried: Try, seen: SeenConnection) -> TryReport:
    differs = tuple(_differences(tried, seen))
    return TryReport(
        source=tried.source,
        destination=tried.destination,
        port=tried.port,
        credentials=tried.credentials,
        claim=tried.claim,
        expected=tried.expected,
        happened=seen.happened,
        detail=seen.detail,
        differs=differs,
        event=seen.event,
        ok=not differs,
    )


def _differences(tried: Try, seen: SeenConnection) -> Iterator[str]:
    if seen.happened is not tried.expected:
        yield f"should be {tried.expected}, is {seen.happened}"
    event = seen.event
    if event is None:
        yield "the proxy reports no such connection"
        return
    if event.reason is not tried.reason:
        yield f"the reason should be {tried.reason}, is {event.reason}"
    decider = event.decided_by.policy if event.decided_by else None
    if decider != tried.policy:
        yield f"{_policy(tried.policy)} should decide, {_policy(decider)} does"
    namespace, _, account = tried.peer.partition("/")
    path = f"/ns/{namespace}/sa/{account}"
    if not (event.peer or "").endswith(path) if tried.peer else event.peer:
        yield f"the client should be {tried.peer or 'unknown'}, is {event.peer or 'unknown'}"
    if seen.alert != tried.alert:
        yield f"the server should send {_named(tried.alert)}, it sends {_named(seen.alert)}"


def _policy(key: str | None) -> str:
    return f"policy {key}" if key else "no policy"


def _named(alert: str) -> str:
    return f"the alert {alert}" if alert else "no alert"


def _alert(report: TraceReport) -> str:
    """The name of the alert that the server sent; the wire's detail has its number behind it."""
    sent = (
        event.detail.partition(" ")[0]
        for event in report.handshake.events
        if (event.actor, event.kind) == (TlsRole.SERVER, Kind.ALERT)
    )
    return next(sent, "")


def _http_answer(reply: str) -> str:
    """The status and the body of an HTTP response, short."""
    head, _, body = reply.partition("\r\n\r\n")
    _, _, status = head.partition("\r\n")[0].partition(" ")
    return f'{status} "{" ".join(body.split())}"'


def _peer(event: Connection | None) -> str:
    return (event and event.peer) or "nobody"


def _reason(event: Connection | None) -> str:
    return str(event.reason).replace("_", " ") if event else ""


def walk(mesh: DemoMesh) -> Iterator[StepReport]:
    """Apply each step's policy, try what it says, and report, one step after the other.

    Raises:
        TrothError: The mesh broke down, or doesn't take a policy.
    """
    for number, stage in enumerate(STAGES, start=1):
        manifest = mesh.apply(stage.policy)
        tries = tuple(_settled(mesh, tried) for tried in stage.tries)
        yield StepReport(
            number=number,
            title=stage.title,
            says=stage.says,
            policy=Policy(file=f"policies/{stage.policy}", manifest=manifest)
            if stage.policy
            else None,
            tries=tries,
            ok=all(report.ok for report in tries),
        )


def trace_handshake(mesh: DemoMesh) -> tuple[Trace, TryReport]:
    """Trace one good connection of the mesh, and judge it.

    Raises:
        TrothError: The mesh broke down.
    """
    trace = mesh.trace(HANDSHAKE)
    return trace, judge_trace(HANDSHAKE, trace)


def _settled(mesh: DemoMesh, tried: Try) -> TryReport:
    deadline = time.monotonic() + _SETTLE_SECONDS
    while not (report := _once(mesh, tried)).ok and time.monotonic() < deadline:
        time.sleep(_AGAIN_SECONDS)
    return report


def _once(mesh: DemoMesh, tried: Try) -> TryReport:
    if tried.credentials is None:
        return judge_attempt(tried, mesh.connect(tried))
    return judge_trace(tried, mesh.trace(tried))
