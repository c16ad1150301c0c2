"""What is asked about a connection, what is found out, and what follows."""

from __future__ import annotations

import msgspec

from troth.diagnosis.report import Hop
from troth.dial.report import Attempt, Cause, EnvoyStatus, Listening, Route, Way
from troth.mesh.connections import Connection, Outcome
from troth.trace.trace import Credentials, Trace


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A connection to make and trace.

    Attributes:
        source: The pod (or Deployment) that connects, ``NAMESPACE/NAME``.
        destination: ``NAMESPACE/NAME`` of a Service, pod or Deployment, or an IP.
        port: The port of that.
        past_tunnel: Make the connection past the client's proxy, in plaintext.
        credentials: What to show in the handshake.
        claim: The pod (or Deployment), or in a cluster the service account, whose identity a forged
            certificate claims.
    """

    source: str
    destination: str
    port: int
    past_tunnel: bool = False
    credentials: Credentials = Credentials.OWN
    claim: str | None = None

    @property
    def as_impostor(self) -> bool:
        """Whether something else than the pod's own certificate is shown."""
        return self.credentials is not Credentials.OWN


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found out about a connection.

    Attributes:
        route: What it had to meet.
        way: The endpoint it was led to; None where a service has none.
        trace: The handshake beside it.
        no_handshake: Why there is none.
        explained: Cause and remedy of what the deciding proxy reports, where that is a refusal or
            failure.
        listening: Where the server's processes listen, where that matters.
        envoy: The node's Envoy afterwards, where something went wrong that no proxy reports.
    """

    question: Question
    route: Route
    way: Way | None
    attempt: Attempt
    trace: Trace | None
    no_handshake: str | None
    explained: Cause | None = None
    listening: Listening | None = None
    envoy: EnvoyStatus | None = None

    @property
    def event(self) -> Connection | None:
        """What a proxy reports about what is judged: the connection, or an impostor's handshake."""
        if self.question.as_impostor:
            return self.trace.event if self.trace else None
        return self.attempt.event

    @property
    def by_proxy(self) -> bool:
        """Whether the client's proxy carried the connection."""
        return self.route.captured and not self.question.past_tunnel

    @property
    def nobody_listens(self) -> bool:
        """Whether it is known that no process of the server takes connections there."""
        if self.way is None or self.listening is None:
            return False
        address, port = self.way.client.address, self.way.client.port
        anywhere = {"::", "0.0.0.0"} if ":" not in address else {"::"}  # noqa: S104 - compared only
        taking = {each.address for each in self.listening.sockets if each.port == port}
        return taking.isdisjoint({address, *anywhere})

    @property
    def inside_pod(self) -> bool:
        """Whether the client dialled its own address."""
        return inside_pod(self.route, self.way)


def inside_pod(route: Route, way: Way | None) -> bool:
    """Whether a connection stays in the pod, where nobody captures it."""
    return way is not None and route.service is None and way.client.destination == route.source


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a connection, as `Diagnosis` has it."""

    verdict: Outcome
    stopped_at: Hop | None = None
    cause: str
    remedy: str | None = None
