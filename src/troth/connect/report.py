"""What is asked about a connection, what is found out, what follows, and that said in JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from troth.connect.findings import Attempt, Listening, Route, Way
from troth.handshake.steps import TraceReport
from troth.mesh.decisions import ClientDecision, ServerDecision
from troth.mesh.model import EnvoyStatus
from troth.traffic.connection import Cause, Connection, Outcome


class Credentials(StrEnum):
    """What a traced client shows when the server asks for its certificate."""

    OWN = "own"
    """The pod's own, of its service account."""

    NONE = "none"
    """No certificate."""

    EXPIRED = "expired"
    """One that the mesh's authority signed and that has expired since."""

    FOREIGN_CA = "foreign-ca"
    """One of another authority, of the same name and with the same claim."""

    @property
    def words(self) -> str:
        """What is shown, after "with"."""
        return _WORDS[self]


_WORDS = {
    Credentials.OWN: "its own certificate",
    Credentials.NONE: "no certificate",
    Credentials.EXPIRED: "an expired certificate",
    Credentials.FOREIGN_CA: "a certificate of another CA",
}


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One traced handshake with a tunnel port.

    Attributes:
        client: What the client's proxy decides about connections to the destination.
        server: What the destination accepts.
        credentials: What the client showed.
        claimed: The SPIFFE ID in the certificate it showed; None when it had none to show.
        source_port: The connection's TCP port at the client.
        report: The handshake.
        event: What the server's proxy reports about the same connection; None if nothing.
    """

    client: ClientDecision
    server: ServerDecision
    credentials: Credentials
    claimed: str | None
    source_port: int
    report: TraceReport
    event: Connection | None


class Hop(StrEnum):
    """A place on the way where a connection can stop, from the client to the server."""

    CLIENT_PROXY = "client_proxy"
    """The client pod's proxy, before it went anywhere."""

    NETWORK = "network"
    """Between the two: nobody took the connection."""

    TUNNEL = "tunnel"
    """The handshake of the two proxies."""

    SERVER_PROXY = "server_proxy"
    """The server pod's proxy, when it came without the tunnel."""

    APP = "app"
    """The server's own process."""


class From(msgspec.Struct, frozen=True, kw_only=True):
    """The client.

    Attributes:
        name: As it was asked for.
        pod: The pod that was taken, ``NAMESPACE/NAME``.
        in_mesh: Whether it is meant to be captured; ``captured`` whether it is.
        identity: Its SPIFFE ID, where it is captured.
        why: Why it is in the mesh or not, or isn't captured although it should be.
    """

    name: str
    pod: str
    in_mesh: bool
    captured: bool
    identity: str | None
    why: str


class To(msgspec.Struct, frozen=True, kw_only=True):
    """The server.

    Attributes:
        name: As it was asked for, as is ``port``.
        service: ``NAMESPACE/NAME`` of the service that was dialled; None for a pod or an address.
        service_ports: The TCP ports of the service of that name, dialled or not.
        address: What was dialled.
        endpoints: How many places that leads to.
    """

    name: str
    port: int
    service: str | None
    service_ports: tuple[int, ...]
    address: str
    endpoints: int


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """One connection; ``troth trace -o json`` prints exactly this.

    Attributes:
        source: The client; ``from`` in JSON.
        to: The server.
        client: What the client decides about the endpoint; None where there is none.
        server: What the endpoint accepts; None where there is none.
        past_tunnel: The connection was made past the client's proxy (``--plaintext``).
        connection: The connection, made as the client's own processes make theirs.
        credentials: What was shown in the handshake.
        claimed: Whose certificate that was, or said to be; None for none, or without a handshake.
        handshake: The traced handshake, made beside the connection.
        handshake_event: What the server's proxy reports about it.
        no_handshake: Why there is none; None where there is.
        verdict: What became of the connection or, where credentials other than the pod's own were
            shown, of the handshake.
        stopped_at: Where it stopped; None where it didn't.
        cause: Why, for people.
        remedy: What to do, for people; None where there is nothing to be done.
        manifests: What to apply for it (YAML), where that is known; of several any one.
    """

    schema: Literal["troth/trace/v1"] = "troth/trace/v1"
    source: From = msgspec.field(name="from")
    to: To
    client: ClientDecision | None
    server: ServerDecision | None
    past_tunnel: bool
    connection: Attempt
    credentials: Credentials
    claimed: str | None
    handshake: TraceReport | None
    handshake_event: Connection | None
    no_handshake: str | None
    verdict: Outcome
    stopped_at: Hop | None
    cause: str
    remedy: str | None
    manifests: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was let in, by the tunnel or in plaintext."""
        return self.verdict in {Outcome.ACCEPTED, Outcome.PLAINTEXT}


class TraceQuestion(msgspec.Struct, frozen=True, kw_only=True):
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

    question: TraceQuestion
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
