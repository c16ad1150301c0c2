"""A trace's question, findings and judgement, and the answer with its stable JSON form."""

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
    """What a traced client presents when the server requests a certificate."""

    OWN = "own"
    """The pod's own, of its service account."""

    NONE = "none"
    """No certificate."""

    EXPIRED = "expired"
    """An expired one from the mesh's authority."""

    FOREIGN_CA = "foreign-ca"
    """One from another authority with the same name, with the same claim."""

    @property
    def words(self) -> str:
        """What is presented, to follow "with"."""
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
        credentials: What the client presented.
        claimed: The SPIFFE ID in its certificate; None without a certificate.
        source_port: The client's TCP port.
        report: The handshake.
        event: The report of the server's proxy about the same connection; None if there is none.
    """

    client: ClientDecision
    server: ServerDecision
    credentials: Credentials
    claimed: str | None
    source_port: int
    report: TraceReport
    event: Connection | None


class Hop(StrEnum):
    """A place where a connection can stop, from the client to the server."""

    CLIENT_PROXY = "client_proxy"
    """The client pod's proxy, before leaving the pod."""

    NETWORK = "network"
    """Between the two: nobody accepted the connection."""

    TUNNEL = "tunnel"
    """The handshake of the two proxies."""

    SERVER_PROXY = "server_proxy"
    """The server pod's proxy, for a connection outside the tunnel."""

    APP = "app"
    """The server's own process."""


class From(msgspec.Struct, frozen=True, kw_only=True):
    """The client.

    Attributes:
        name: The name in the question.
        pod: The chosen pod, ``NAMESPACE/NAME``.
        in_mesh: Whether it should be captured; ``captured`` whether it is.
        identity: Its SPIFFE ID, if it is captured.
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
        name: The name in the question; so is ``port``.
        service: ``NAMESPACE/NAME`` of the dialled service; None for a pod or an address.
        service_ports: The TCP ports of the service of that name, dialled or not.
        address: The dialled IP.
        endpoints: How many endpoints it has.
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
        client: What the client decides about the endpoint; None if there is no endpoint.
        server: What the endpoint accepts; None if there is no endpoint.
        past_tunnel: The connection bypassed the client's proxy (``--plaintext``).
        connection: The connection, made as the client's own processes make theirs.
        credentials: What was presented in the handshake.
        claimed: The identity in that certificate; None without a certificate or a handshake.
        handshake: The traced handshake, separate from the connection.
        handshake_event: The report of the server's proxy about it.
        no_handshake: Why there is no handshake; None if there is one.
        verdict: The outcome of the connection or, if credentials other than the pod's own were
            presented, of the handshake.
        stopped_at: Where it stopped; None if it didn't.
        cause: Why, for people.
        remedy: What to do, for people; None if nothing needs to be done.
        manifests: YAML to apply against it, if known; any one of several is enough.
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
        """Whether it was accepted, through the tunnel or in plaintext."""
        return self.verdict in {Outcome.ACCEPTED, Outcome.PLAINTEXT}


class TraceQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A connection to make and trace.

    Attributes:
        source: The pod (or Deployment) that connects, ``NAMESPACE/NAME``.
        destination: ``NAMESPACE/NAME`` of a Service, pod or Deployment, or an IP.
        port: The destination's port.
        past_tunnel: Bypass the client's proxy: connect in plaintext.
        credentials: What to present in the handshake.
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
        """Whether it presents anything but the pod's own certificate."""
        return self.credentials is not Credentials.OWN


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """All findings about a connection.

    Attributes:
        route: Its expected path.
        way: The endpoint it went to; None if a service has none.
        trace: The separate handshake.
        no_handshake: Why there is no handshake.
        explained: Cause and remedy of the deciding proxy's report, if that is a refusal or failure.
        listening: Where the server's processes listen, if that matters.
        envoy: The node's Envoy afterwards, if it failed without a proxy's report.
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
        """The proxy's report of what is judged: the connection, or an impostor's handshake."""
        if self.question.as_impostor:
            return self.trace.event if self.trace else None
        return self.attempt.event

    @property
    def by_proxy(self) -> bool:
        """Whether the client's proxy carried the connection."""
        return self.route.captured and not self.question.past_tunnel

    @property
    def nobody_listens(self) -> bool:
        """Whether it is known that no process of the server listens there."""
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
    """Whether a connection stays inside the pod, uncaptured."""
    return way is not None and route.service is None and way.client.destination == route.source


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a connection, as in `Diagnosis`."""

    verdict: Outcome
    stopped_at: Hop | None = None
    cause: str
    remedy: str | None = None
