"""Make a running mesh open a connection and a handshake, and explain their outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from troth.connect.findings import Reached
from troth.connect.judge import judge
from troth.connect.report import Diagnosis, Findings, From, To, inside_pod
from troth.errors import PeerError
from troth.traffic.connection import Outcome, Reason

if TYPE_CHECKING:
    from troth.connect.findings import Attempt, Listening, Route, Way
    from troth.connect.report import Credentials, Trace, TraceQuestion
    from troth.mesh.model import EnvoyStatus
    from troth.traffic.connection import Cause, Connection

_ANSWER_SECONDS = 5.0
# Longer than Envoy's connect timeout (10 s), so that Envoy reports it; if nobody listens, a pod's
# kernel says so at once.
_ELSEWHERE_SECONDS = 12.0
_TROUBLE = frozenset({Outcome.REFUSED, Outcome.FAILED})
_NOT_LISTENING = frozenset({Reason.APP_UNREACHABLE, Reason.UNREACHABLE})


class Connector(Protocol):
    """A running mesh that makes connections; every method raises PeerError if it refuses."""

    def route(self, source: str, destination: str, port: int) -> Route:
        """Where a connection from ``source`` would go; names as in `TraceQuestion`."""

    def connect(
        self, source: str, destination: str, port: int, *, past_tunnel: bool, seconds: float
    ) -> Attempt:
        """Make a connection and wait for an answer, within ``timeout`` seconds."""

    def trace(
        self,
        source: str,
        destination: str,
        port: int,
        *,
        credentials: Credentials,
        claim: str | None,
    ) -> Trace:
        """Make a handshake with the tunnel of the pod at that address."""

    def cause(self, connection: Connection) -> Cause:
        """Cause and remedy of a connection that it has reported."""

    def listening(self, pod: str) -> Listening | None:
        """Where a pod's processes listen; None if unknown."""

    def envoy(self) -> EnvoyStatus:
        """The status of Envoy on the client's node."""


def diagnose(mesh: Connector, question: TraceQuestion) -> Diagnosis:
    """Make and trace one connection.

    Args:
        mesh: The mesh.
        question: The connection.

    Raises:
        PeerError: No mesh runs, or it doesn't know the client or the server.
    """
    route = mesh.route(question.source, question.destination, question.port)
    attempt = _connect(mesh, question, route)
    way = _taken(route, attempt)
    trace, no_handshake = _trace(mesh, question, route, way)
    findings = Findings(
        question=question,
        route=route,
        way=way,
        attempt=attempt,
        trace=trace,
        no_handshake=no_handshake,
    )
    return report(
        msgspec.structs.replace(
            findings,
            explained=_explained(mesh, findings),
            listening=_listening(mesh, findings),
            envoy=_envoy(mesh, findings),
        )
    )


def report(findings: Findings) -> Diagnosis:
    """Judge the findings and return them in their stable form."""
    question, route, way, trace = findings.question, findings.route, findings.way, findings.trace
    judgement = judge(findings)
    manifests = findings.explained.manifests if findings.explained else ""
    return Diagnosis(
        source=From(
            name=question.source,
            pod=route.source,
            in_mesh=route.in_mesh,
            captured=route.captured,
            identity=route.identity,
            why=route.why,
        ),
        to=To(
            name=question.destination,
            port=question.port,
            service=route.service,
            service_ports=route.service_ports,
            address=route.address,
            endpoints=len(route.ways),
        ),
        client=way.client if way else None,
        server=way.server if way else None,
        past_tunnel=question.past_tunnel,
        connection=findings.attempt,
        credentials=question.credentials,
        claimed=trace.claimed if trace else None,
        handshake=trace.report if trace else None,
        handshake_event=trace.event if trace else None,
        no_handshake=findings.no_handshake,
        verdict=judgement.verdict,
        stopped_at=judgement.stopped_at,
        cause=judgement.cause,
        remedy=judgement.remedy,
        manifests="" if question.as_impostor else manifests,
    )


def _connect(mesh: Connector, question: TraceQuestion, route: Route) -> Attempt:
    destination, port = question.destination, question.port
    if question.past_tunnel and route.ways:
        # Only the proxy balances services.
        destination, port = route.ways[0].client.address, route.ways[0].client.port
    elsewhere = any(way.client.destination is None for way in route.ways)
    return mesh.connect(
        route.source,
        destination,
        port,
        past_tunnel=question.past_tunnel,
        seconds=_ELSEWHERE_SECONDS if elsewhere else _ANSWER_SECONDS,
    )


def _trace(
    mesh: Connector, question: TraceQuestion, route: Route, way: Way | None
) -> tuple[Trace | None, str | None]:
    """A handshake, or why there is none."""
    if reason := why_no_handshake(question, route, way):
        return None, reason
    assert way is not None  # noqa: S101 - or there would have been a reason
    try:
        trace = mesh.trace(
            route.source,
            way.client.address,
            way.client.port,
            credentials=question.credentials,
            claim=question.claim,
        )
    except PeerError as error:
        who = "" if error.peer == "troth" else f"{error.peer} "
        return None, f"{who}{error.reason}"
    return trace, None


def _explained(mesh: Connector, findings: Findings) -> Cause | None:
    event = findings.event
    if event is None or event.outcome not in _TROUBLE:
        return None
    return mesh.cause(event)


def _listening(mesh: Connector, findings: Findings) -> Listening | None:
    pod = findings.way.client.destination if findings.way else None
    event = findings.event
    refused = event is None and findings.attempt.reached is Reached.UNREACHABLE
    if pod and (refused or (event and event.reason in _NOT_LISTENING)):
        return mesh.listening(pod)
    return None


def _envoy(mesh: Connector, findings: Findings) -> EnvoyStatus | None:
    if findings.event is None and findings.attempt.reached is not Reached.ANSWERED:
        return mesh.envoy()
    return None


def why_no_handshake(question: TraceQuestion, route: Route, way: Way | None) -> str | None:
    """Why no handshake is made; None if one is."""
    reason = None
    if question.past_tunnel:
        reason = "--plaintext goes past the tunnel, where there is none"
    elif way is None:
        reason = "there is no endpoint to make one with"
    elif not way.server.tunnel:
        reason = f"there is no tunnel: {way.server.why}"
    elif question.as_impostor:
        pass  # at the tunnel's own port, whatever real traffic does
    elif not route.captured:
        reason = f"{route.source} has no certificate to show: {route.why}"
    elif inside_pod(route, way):
        reason = "what a pod sends to itself never leaves it"
    elif not way.client.tunnel:
        reason = f"real traffic makes none: {way.client.why}"
    return reason


def _taken(route: Route, attempt: Attempt) -> Way | None:
    """The way that the connection took, if a proxy reports it; else any, as for a trace."""
    if attempt.event:
        taken = attempt.event.destination
        for way in route.ways:
            if (way.client.address, way.client.port) == (taken.address, taken.port):
                return way
    return route.ways[0] if route.ways else None
