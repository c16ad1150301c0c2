"""From the findings to the outcome of the connection, and why: pure.

Cause and remedy are more detailed than those of `troth why`, which are about many connections.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from troth.connect.findings import Reached
from troth.connect.report import Hop, Judgement
from troth.handshake.record import Verdict
from troth.mesh.model import MESH_LABEL
from troth.mesh.ports import INBOUND_PORT, OUTBOUND_PORT, OWN_PORTS
from troth.policy.model import Mode
from troth.traffic.connection import Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.connect.report import Findings
    from troth.traffic.connection import Connection

_AGAIN = (
    "Look at the step at which the handshake stopped; if something was changing just then, "
    "trace again."
)

_LOOK_THERE = "Check that it runs, listens there, and can be reached from the node."

_NOBODY_LISTENS = frozenset({Reason.APP_UNREACHABLE, Reason.UNREACHABLE})
_VAGUE = frozenset({Reason.REFUSED_BY_PEER, Reason.HANDSHAKE_FAILED, Reason.OTHER})
"""Reasons for which `troth why` advises a trace, which this is."""


_HOPS: dict[tuple[Side, Reason], Hop] = {
    (Side.SERVER, Reason.PLAINTEXT_TO_STRICT): Hop.SERVER_PROXY,
    (Side.SERVER, Reason.RESERVED_PORT): Hop.SERVER_PROXY,
    (Side.SERVER, Reason.NOT_CONFIGURED): Hop.SERVER_PROXY,
    (Side.SERVER, Reason.APP_UNREACHABLE): Hop.APP,
    (Side.CLIENT, Reason.RESERVED_PORT): Hop.CLIENT_PROXY,
    (Side.CLIENT, Reason.NOT_CONFIGURED): Hop.CLIENT_PROXY,
    (Side.CLIENT, Reason.NO_ENDPOINTS): Hop.CLIENT_PROXY,
    (Side.CLIENT, Reason.NO_CERTIFICATE_YET): Hop.CLIENT_PROXY,
}
"""Where a proxy stops a connection, by reason; all other reasons are the tunnel's."""


def judge(findings: Findings) -> Judgement:
    """Say what became of a connection or handshake, where it stopped, why, and what to do.

    A proxy's report decides, if there is one: the client can't see how its connection travels.
    """
    event = findings.event
    if event is not None:
        return _by_report(findings, event)
    if findings.question.as_impostor:
        return _handshake_alone(findings)
    return _by_the_client(findings)


def _by_report(findings: Findings, event: Connection) -> Judgement:
    match event.outcome:
        case Outcome.ACCEPTED:
            return Judgement(verdict=event.outcome, cause=_accepted(findings, event))
        case Outcome.PLAINTEXT:
            cause, remedy = _plaintext(findings)
            return Judgement(verdict=event.outcome, cause=cause, remedy=remedy)
        case _:
            cause, remedy = _stopped(findings, event)
            hop = _hop(findings, event)
            return Judgement(verdict=event.outcome, stopped_at=hop, cause=cause, remedy=remedy)


def _hop(findings: Findings, event: Connection) -> Hop:
    if event.reason is Reason.UNREACHABLE and findings.way and not findings.way.client.tunnel:
        return Hop.APP if findings.way.client.destination else Hop.NETWORK
    return _HOPS.get((event.side, event.reason), Hop.TUNNEL)


def _handshake_alone(findings: Findings) -> Judgement:
    """An impostor's handshake that no proxy reports."""
    if findings.trace is None:
        return Judgement(
            verdict=Outcome.FAILED,
            stopped_at=Hop.TUNNEL,
            cause=_sentence(f"No handshake could be made: {findings.no_handshake}"),
            remedy="Trace to a pod that is captured, while Envoy runs: `troth status` shows both.",
        )
    report = findings.trace.report
    cause = _sentence(report.reason)
    if report.verdict is Verdict.ACCEPTED:
        return Judgement(verdict=Outcome.ACCEPTED, cause=cause)
    refused = report.verdict is Verdict.REFUSED
    return Judgement(
        verdict=Outcome.REFUSED if refused else Outcome.FAILED,
        stopped_at=Hop.TUNNEL,
        cause=cause,
        remedy=_AGAIN,
    )


def _by_the_client(findings: Findings) -> Judgement:
    """Judge by what the client saw, as no proxy reports anything."""
    way = findings.way
    first = Hop.CLIENT_PROXY if findings.by_proxy else Hop.NETWORK
    if way is None:
        return _failed(first, _no_endpoints(findings))
    unreachable = findings.attempt.reached is Reached.UNREACHABLE
    if findings.inside_pod or not (way.server.tunnel or (findings.by_proxy and unreachable)):
        return _beside_the_mesh(findings)
    if not findings.by_proxy:
        first = Hop.SERVER_PROXY
    if way.client.port in OWN_PORTS:
        return _failed(first, _own_port(way.client.port))
    if unreachable and not findings.by_proxy and findings.nobody_listens:
        return _failed(Hop.APP, _nobody_listens(findings))  # the pod's rules see that first
    if unreachable:  # at a port where Envoy should listen
        return _failed(first, _envoy_gone(findings))
    # A proxy accepted it but doesn't report what it did, so assume nothing.
    return _failed(first, _unreported(findings))


def _beside_the_mesh(findings: Findings) -> Judgement:
    """Judge a connection that no proxy handles."""
    way = findings.way
    if findings.attempt.reached is Reached.UNREACHABLE:
        hop = Hop.APP if way and way.client.destination else Hop.NETWORK
        return _failed(hop, _nobody_listens(findings))
    cause, remedy = _plaintext(findings)
    return Judgement(verdict=Outcome.PLAINTEXT, cause=cause, remedy=remedy)


def _failed(hop: Hop, texts: tuple[str, str]) -> Judgement:
    cause, remedy = texts
    return Judgement(verdict=Outcome.FAILED, stopped_at=hop, cause=cause, remedy=remedy)


def _accepted(findings: Findings, event: Connection) -> str:
    """Why it was accepted through the tunnel."""
    if findings.question.as_impostor:
        return f"The server accepted the client as {event.peer}."
    return (
        f"Both ends proved who they are, and {_server(findings)} knows the client as {event.peer}."
        f"{_silence(findings)}"
    )


def _plaintext(findings: Findings) -> tuple[str, str | None]:
    """Why it was accepted outside the tunnel, and what would encrypt it."""
    way, route = findings.way, findings.route
    if findings.inside_pod:
        return f"It never leaves the pod, so nothing captures it.{_silence(findings)}", None
    assert way is not None  # noqa: S101 - it came to somebody
    server = way.server
    if not server.tunnel:
        cause, remedy = way.server.why, _join(way.client.destination)
    elif server.mode is Mode.DISABLE:
        cause = (
            f"port {way.client.port} is DISABLE by {server.decided_by}, so nobody makes a tunnel"
        )
        remedy = "To encrypt it, set PERMISSIVE or STRICT for that port."
    elif findings.question.past_tunnel:
        cause = f"port {way.client.port} takes it, being {server.mode} by {server.decided_by}"
        remedy = "To refuse what comes past the tunnel, set STRICT."
    elif not route.captured:
        cause = (
            f"{_outside(findings)}, and port {way.client.port} takes it, "
            f"being {server.mode} by {server.decided_by}"
        )
        remedy = _join(route.source)
    else:
        cause = f"port {way.client.port} takes it, being {server.mode} by {server.decided_by}"
        remedy = "A policy was changing or a pod being captured; trace again."
    return f"It passed in plaintext: {cause}.{_silence(findings)}", remedy


def _stopped(findings: Findings, event: Connection) -> tuple[str, str]:
    """Why a proxy refused it or failed."""
    if findings.way and findings.way.client.port in OWN_PORTS:
        return _own_port(findings.way.client.port)
    if event.reason in _NOBODY_LISTENS and findings.listening is not None:
        return _nobody_listens(findings)
    explained = findings.explained
    cause = explained.cause if explained else _sentence(event.detail or str(event.reason))
    remedy = explained.remedy if explained else _AGAIN
    if event.reason in _VAGUE:
        if findings.trace and findings.trace.report.stopped_at:
            cause = f"{cause} The traced handshake: {findings.trace.report.reason}."
        remedy = _AGAIN
    elif event.reason is Reason.UNREACHABLE:
        remedy = _LOOK_THERE
    if findings.question.as_impostor:
        remedy = f"None here: the trace showed it on purpose. For a real client: {remedy}"
    return cause, remedy


def _own_port(port: int) -> tuple[str, str]:
    """A port of troth's own."""
    own = _list(map(str, sorted(OWN_PORTS)))
    cause = f"No app listens on port {port}: {own} are troth's own in every pod of the mesh."
    return cause, "Connect to the app's port: troth opens the tunnel for it."


def _nobody_listens(findings: Findings) -> tuple[str, str]:
    """What the server's processes listen to instead."""
    way, listening = findings.way, findings.listening
    assert way is not None  # noqa: S101 - it was led to somebody
    port = way.client.port
    if listening is None:
        saw = findings.attempt.detail or "it can't be reached"
        cause = f"Nothing takes connections at {way.client.address}:{port}: {saw}."
        return cause, _LOOK_THERE
    here = [each.address for each in listening.sockets if each.port == port]
    if here:
        only = "only" if all(ip_address(each).is_loopback for each in here) else "at this moment"
        cause = (
            f"The app of {listening.pod} listens on port {port} at {_list(here)} {only}, "
            f"and did not take the connection at {way.client.address}."
        )
        remedy = "Let it listen at 0.0.0.0 or ::; if it has only just started, trace again."
        return cause, remedy
    others = sorted({each.port for each in listening.sockets})
    instead = (
        f"where processes listen on {_list(map(str, others))}" if others else "and on no other"
    )
    cause = f"Nothing listens on port {port} of {listening.pod}, {instead}."
    if findings.event and findings.event.peer:
        cause = f"The tunnel stands, the server knows the client as {findings.event.peer}. {cause}"
    remedy = f"Start what should listen there (`troth logs {listening.pod}` shows what it says)"
    if others:
        remedy += ", or connect to a port that is there"
    if findings.route.service:
        remedy += f", or correct the targetPort of Service {findings.route.service}"
    return cause, f"{remedy}."


def _no_endpoints(findings: Findings) -> tuple[str, str]:
    """Why a service has no endpoints."""
    route = findings.route
    cause = f"No ready pod is behind port {route.port} of Service {route.service}"
    if not route.unready:
        cause += ": its selector matches none."
        return cause, "Compare its selector with the labels of the pods that it is meant for."
    cause += f". It selects {'; '.join(route.unready)}."
    return cause, "Correct that for one of them: `troth logs` shows what a container says."


def _envoy_gone(findings: Findings) -> tuple[str, str]:
    """A capture port where nobody listens."""
    pod, port = findings.route.source, OUTBOUND_PORT
    if not findings.by_proxy:
        pod, port = _server(findings), INBOUND_PORT
    envoy = findings.envoy
    state = "Envoy does not listen there, or did not until just now"
    if envoy and not envoy.connected:
        state = f"Envoy is not running, or not ready yet (started again {envoy.restarts} times)"
    cause = (
        f"Nothing takes the connection at port {port} of {pod}, where capture leads it: {state}. "
        "Without Envoy nothing passes, in any mode."
    )
    if envoy and envoy.refused:
        cause += f" Envoy refuses {'; '.join(envoy.refused)}."
    remedy = (
        "troth starts Envoy again by itself, after at most 5 s; if it keeps ending, "
        "troth.log in the state directory has its last words."
    )
    return cause, remedy


def _unreported(findings: Findings) -> tuple[str, str]:
    """A proxy that accepted a connection and reports nothing."""
    attempt = findings.attempt
    saw = attempt.detail or f"it was {attempt.reached}"
    hangs = attempt.reached is Reached.SILENT
    envoy = "Envoy may be overloaded or stopped" if hangs else "Envoy may have ended meanwhile"
    cause = (
        f"The connection was taken, but no proxy reports what became of it ({saw}), "
        f"so nothing is known of how it travelled: {envoy}."
    )
    remedy = "Trace again; if it persists, troth.log in the state directory has Envoy's errors."
    return cause, remedy


def _sentence(text: str) -> str:
    """``text`` with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _silence(findings: Findings) -> str:
    """What the app did with a connection that it didn't answer."""
    match findings.attempt.reached:
        case Reached.ANSWERED:
            return ""
        case Reached.SILENT:
            return f" The app has it and says nothing to a GET: {findings.attempt.detail}."
        case _:
            return " The app ended it without an answer to a GET."


def _server(findings: Findings) -> str:
    client = findings.way.client if findings.way else None
    return (client and (client.destination or client.address)) or findings.question.destination


def _outside(findings: Findings) -> str:
    route = findings.route
    if route.in_mesh:
        return f"{route.source} is in the mesh, but not captured ({route.why})"
    return f"{route.source} is not in the mesh ({route.why})"


def _join(pod: str | None) -> str | None:
    if pod is None:
        return None
    namespace, _, _ = pod.partition("/")
    return (
        f"To encrypt it, put {pod} in the mesh: namespace {namespace} labelled "
        f"{MESH_LABEL}: enabled, and the pod not labelled {MESH_LABEL}: disabled."
    )


def _list(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
