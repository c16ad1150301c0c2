"""A cluster's mesh, asked by reviews about one connection: what `troth trace` makes and explains.

The client's node makes the connection; what the server's proxy did with it is known on the
server's node, which is asked for its events before and after.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from troth.connect.findings import Reached, belongs, is_echo
from troth.errors import PeerError
from troth.mesh.model import Endpoint
from troth.mesh.target import find_pod
from troth.reviews.objects import (
    ConnectAnswer,
    EventsAnswer,
    Question,
    ReviewSpec,
    RouteAnswer,
    Seen,
    TraceAnswer,
)
from troth.syntax import choices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from troth.connect.findings import Attempt, EnvoyStatus, Route
    from troth.connect.report import Credentials, Trace
    from troth.mesh.model import Pod
    from troth.reviews.asker import Asker, Places
    from troth.traffic.connection import Cause, Connection

T = TypeVar("T")

_TRACE_SECONDS = 5
_REPORT_SECONDS = 3.0
"""Envoy writes its log every 50 ms; a refused connection when it has ended."""

_PAUSE_SECONDS = 0.1

_EVENT_SECONDS = 120
"""How far back events are asked for: further than clocks differ."""

_MOST_EVENTS = 200


class ReviewedMesh:
    """Asks node agents in turn, as `troth.connect` wants it.

    Args:
        runner: Runs the asking.
        asker: Of the client's namespace.
        places: Of that namespace.
        seconds: How long to wait for an agent, beside what it does.
    """

    def __init__(
        self, runner: asyncio.Runner, asker: Asker, places: Places, *, seconds: float
    ) -> None:
        self._runner = runner
        self._asker = asker
        self._places = places
        self._seconds = seconds
        self._route: RouteAnswer | None = None
        self._envoy: EnvoyStatus | None = None
        self._causes: dict[Connection, Cause] = {}

    def route(self, source: str, destination: str, port: int) -> Route:
        """Where a connection would go."""
        pod = self._pod(source)
        answer = self._ask(
            pod, Question.ROUTE, RouteAnswer, from_pod=pod.name, to=destination, port=port
        )
        self._route, self._envoy = answer, answer.envoy
        return answer.route

    def connect(
        self, source: str, destination: str, port: int, *, past_tunnel: bool, seconds: float
    ) -> Attempt:
        """Make a connection."""
        pod = self._pod(source)
        others = self._servers_nodes() - {pod.node}
        before = {
            each.connection
            for each in self._events(
                others,
                from_pod=pod.name,
                to=destination,
                port=port,
                timeout_seconds=int(seconds),
            )
        }
        answer = self._ask(
            pod,
            Question.CONNECT,
            ConnectAnswer,
            from_pod=pod.name,
            to=destination,
            port=port,
            past_tunnel=past_tunnel,
            timeout_seconds=int(seconds),
        )
        attempt, self._envoy = answer.attempt, answer.envoy
        event = self._remember(attempt.event, answer.cause)
        if attempt.reached is not Reached.UNREACHABLE and (event is None or is_echo(event)):
            by_proxy = pod.captured and not past_tunnel
            ways = self._route.route.ways if self._route is not None else ()
            ends = [Endpoint(way.client.address, way.client.port) for way in ways]

            def is_ours(seen: Connection) -> bool:
                return seen not in before and belongs(
                    seen,
                    pod,
                    ends,
                    began=None,
                    own_port=None if by_proxy else attempt.source_port,
                )

            event = self._reported(others, is_ours) or event
        return msgspec.structs.replace(attempt, event=event)

    def trace(
        self,
        source: str,
        destination: str,
        port: int,
        *,
        credentials: Credentials,
        claim: str | None,
    ) -> Trace:
        """Make a handshake."""
        pod = self._pod(source)
        others = self._servers_nodes() - {pod.node}
        place = {"from_pod": pod.name, "to": destination, "port": port}
        self._events(others, **place, timeout_seconds=_TRACE_SECONDS)
        answer = self._ask(
            pod,
            Question.TRACE,
            TraceAnswer,
            **place,
            credentials=str(credentials),
            claim=claim,
            timeout_seconds=_TRACE_SECONDS,
        )
        traced = answer.trace
        event = self._remember(traced.event, answer.cause)
        if event is None:

            def is_ours(seen: Connection) -> bool:
                source = seen.source
                return source.port == traced.source_port and source.address in pod.addresses

            event = self._reported(others, is_ours)
        return msgspec.structs.replace(traced, event=event)

    def cause(self, connection: Connection) -> Cause:
        """What explains a connection: the node that reported it has said so."""
        return self._causes[connection]

    def listening(self, pod: str) -> None:  # noqa: ARG002 - of the protocol
        """Not asked: it is another pod's, and maybe another namespace's."""
        return

    def envoy(self) -> EnvoyStatus:
        """How the Envoy of the client's node was when it was last heard of."""
        if self._envoy is None:
            raise PeerError("troth", "no agent has answered yet")
        return self._envoy

    def _reported(
        self, nodes: frozenset[str], is_ours: Callable[[Connection], bool]
    ) -> Connection | None:
        """The newest of the servers' reports that ``is_ours``; None if it doesn't come soon."""
        deadline = time.monotonic() + _REPORT_SECONDS
        while nodes:
            for each in reversed(self._events(nodes)):
                if is_ours(each.connection):
                    return self._remember(each.connection, each.cause)
            if time.monotonic() > deadline:
                break
            self._runner.run(asyncio.sleep(_PAUSE_SECONDS))
        return None

    def _events(self, nodes: Iterable[str], **expected: Any) -> list[Seen]:
        """What nodes have seen, the oldest first; ``expected`` is what is about to be traced."""
        specs = [
            ReviewSpec(
                node_name=node,
                question=Question.EVENTS,
                since_seconds=_EVENT_SECONDS,
                limit=_MOST_EVENTS,
                **expected,
            )
            for node in nodes
        ]
        if not specs:
            return []
        replies = self._runner.run(self._asker.ask(specs, seconds=self._seconds))
        answers, _ = replies.read(EventsAnswer)
        return sorted(
            (seen for answer in answers.values() for seen in answer.events),
            key=lambda seen: seen.connection.time,
        )

    def _remember(self, event: Connection | None, cause: Cause | None) -> Connection | None:
        if event is not None and cause is not None:
            self._causes[event] = cause
        return event

    def _servers_nodes(self) -> frozenset[str]:
        return frozenset(self._route.nodes.values() if self._route is not None else ())

    def _pod(self, name: str) -> Pod:
        pod = find_pod(self._places.pods, name)
        if pod is None:
            raise PeerError(
                "troth",
                f"no pod or workload is called {name!r}",
                choices(name, (pod.workload for pod in self._places.pods)),
            )
        if not pod.node:
            raise PeerError("troth", f"{pod} is not bound to a node yet", "wait until it runs")
        return pod

    def _ask(self, pod: Pod, question: Question, kind: type[T], **arguments: Any) -> T:
        spec = ReviewSpec(node_name=pod.node, question=question, **arguments)
        seconds = self._seconds + spec.timeout_seconds
        replies = self._runner.run(self._asker.ask([spec], seconds=seconds))
        if pod.node in replies.refused:
            raise replies.refused[pod.node]
        answers, unanswered = replies.read(kind)
        if pod.node in answers:
            return answers[pod.node]
        why = unanswered[0].why
        raise PeerError(f"node {pod.node}", why, "see whether its agent runs: troth status")
