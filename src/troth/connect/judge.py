"""From what was found to what became of the connection: values in, values out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.connect import sentences as say
from troth.connect.findings import Reached
from troth.connect.report import Hop, Judgement
from troth.envoy.ports import OWN_PORTS
from troth.handshake.record import Verdict
from troth.traffic.connection import Outcome, Reason, Side

if TYPE_CHECKING:
    from troth.connect.report import Findings
    from troth.traffic.connection import Connection

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
"""Where a proxy stops a connection; all other reasons are the tunnel's."""


def judge(findings: Findings) -> Judgement:
    """Say what became of what was asked for, where it stopped, why, and what to do.

    A proxy's report decides, where there is one: the client can't see how its connection travels.
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
            return Judgement(verdict=event.outcome, cause=say.accepted(findings, event))
        case Outcome.PLAINTEXT:
            cause, remedy = say.plaintext(findings)
            return Judgement(verdict=event.outcome, cause=cause, remedy=remedy)
        case _:
            cause, remedy = say.stopped(findings, event)
            hop = _hop(findings, event)
            return Judgement(verdict=event.outcome, stopped_at=hop, cause=cause, remedy=remedy)


def _hop(findings: Findings, event: Connection) -> Hop:
    if event.reason is Reason.UNREACHABLE and findings.way and not findings.way.client.tunnel:
        return Hop.APP if findings.way.client.destination else Hop.NETWORK
    return _HOPS.get((event.side, event.reason), Hop.TUNNEL)


def _handshake_alone(findings: Findings) -> Judgement:
    """An impostor's handshake of which no proxy reports anything."""
    if findings.trace is None:
        return Judgement(
            verdict=Outcome.FAILED,
            stopped_at=Hop.TUNNEL,
            cause=say.sentence(f"No handshake could be made: {findings.no_handshake}"),
            remedy="Trace to a pod that is captured, while Envoy runs: `troth status` shows both.",
        )
    report = findings.trace.report
    cause = say.sentence(report.reason)
    if report.verdict is Verdict.ACCEPTED:
        return Judgement(verdict=Outcome.ACCEPTED, cause=cause)
    refused = report.verdict is Verdict.REFUSED
    return Judgement(
        verdict=Outcome.REFUSED if refused else Outcome.FAILED,
        stopped_at=Hop.TUNNEL,
        cause=cause,
        remedy=say.AGAIN,
    )


def _by_the_client(findings: Findings) -> Judgement:
    """No proxy reports anything, so what the client saw is all there is."""
    way = findings.way
    first = Hop.CLIENT_PROXY if findings.by_proxy else Hop.NETWORK
    if way is None:
        return _failed(first, say.no_endpoints(findings))
    unreachable = findings.attempt.reached is Reached.UNREACHABLE
    if findings.inside_pod or not (way.server.tunnel or (findings.by_proxy and unreachable)):
        return _beside_the_mesh(findings)
    if not findings.by_proxy:
        first = Hop.SERVER_PROXY
    if way.client.port in OWN_PORTS:
        return _failed(first, say.own_port(way.client.port))
    if unreachable and not findings.by_proxy and findings.nobody_listens:
        return _failed(Hop.APP, say.nobody_listens(findings))  # the pod's rules see that first
    if unreachable:  # at a port where Envoy has to listen
        return _failed(first, say.envoy_gone(findings))
    # A proxy took it and doesn't say what it did. Nothing is taken for granted then.
    return _failed(first, say.unreported(findings))


def _beside_the_mesh(findings: Findings) -> Judgement:
    """Nobody but the server itself has a say in it."""
    way = findings.way
    if findings.attempt.reached is Reached.UNREACHABLE:
        hop = Hop.APP if way and way.client.destination else Hop.NETWORK
        return _failed(hop, say.nobody_listens(findings))
    cause, remedy = say.plaintext(findings)
    return Judgement(verdict=Outcome.PLAINTEXT, cause=cause, remedy=remedy)


def _failed(hop: Hop, texts: tuple[str, str]) -> Judgement:
    cause, remedy = texts
    return Judgement(verdict=Outcome.FAILED, stopped_at=hop, cause=cause, remedy=remedy)
