"""Connections and their outcomes: who talked to whom, how, and which policy decided."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy

UNKNOWN = "(unknown)"
"""Stands for an end of a connection whose address isn't known."""


class Outcome(StrEnum):
    """What became of a connection."""

    ACCEPTED = "accepted"
    """Through the tunnel, from a verified peer."""
    PLAINTEXT = "plaintext"
    """Accepted in plaintext, as the port's policy allows."""
    REFUSED = "refused"
    """By policy, or because one side couldn't prove its identity."""
    FAILED = "failed"
    """Nothing forbade it, but it didn't reach its destination."""

    @property
    def is_trouble(self) -> bool:
        """Whether it needs an explanation."""
        return self in {Outcome.REFUSED, Outcome.FAILED}


class Reason(StrEnum):
    """Why a connection was refused or failed; codes are stable, Envoy's words are not."""

    NONE = "none"
    PLAINTEXT_TO_STRICT = "plaintext_to_strict"
    NO_CLIENT_CERTIFICATE = "no_client_certificate"
    WRONG_CLIENT_IDENTITY = "wrong_client_identity"
    WRONG_SERVER_IDENTITY = "wrong_server_identity"
    UNKNOWN_AUTHORITY = "unknown_authority"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    CERTIFICATE_INVALID = "certificate_invalid"
    REFUSED_BY_PEER = "refused_by_peer"
    """The other side aborted the handshake with an alert, such as ``UNKNOWN_CA``."""
    TLS_PARAMETERS = "tls_parameters"
    """The two share no TLS version, cipher suite, group or application protocol."""
    NOT_TLS = "not_tls"
    NO_HANDSHAKE = "no_handshake"
    """It came to the tunnel and left without a complete handshake, as port scanners do."""
    HANDSHAKE_FAILED = "handshake_failed"
    BAD_SERVER_NAME = "bad_server_name"
    """The tunnel's server name isn't a permitted port."""
    RESERVED_PORT = "reserved_port"
    """A process dialled one of troth's own ports, where no app listens."""
    NO_CERTIFICATE_YET = "no_certificate_yet"
    """This side has no certificate yet."""
    PEER_VANISHED = "peer_vanished"
    """The client of an open tunnel connection stopped responding, so it was closed."""
    APP_UNREACHABLE = "app_unreachable"
    UNREACHABLE = "unreachable"
    """The destination (or the tunnel there) doesn't accept connections."""
    NO_ENDPOINTS = "no_endpoints"
    NOT_CONFIGURED = "not_configured"
    """Envoy doesn't know the destination (yet)."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    """The pod had as many open connections as one pod may have."""
    TOO_MANY_UNPROVED = "too_many_unproved"
    """It connected to the tunnel more often than a client without a proven identity may."""
    NODE_OVERLOADED = "node_overloaded"
    """The node's Envoy had no connections or no memory left."""
    OTHER = "other"


class Side(StrEnum):
    """Whose proxy reports."""

    SERVER = "server"
    CLIENT = "client"


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection.

    Attributes:
        address: Its IP; empty if unknown.
        port: Its TCP port; 0 if unknown.
        pod: ``NAMESPACE/NAME`` if the address is a known pod's.
        workload: ``NAMESPACE/NAME`` of the pod's Deployment or other owner, if known.
    """

    address: str
    port: int
    pod: str | None = None
    workload: str | None = None

    @property
    def name(self) -> str:
        """The workload's name or, without one, the address."""
        return self.workload or self.address or UNKNOWN


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One connection as one end's proxy reports it, with the names and policies of that moment.

    The journal, reviews and the control socket all use this form; ``troth events -o json`` prints
    it.

    Attributes:
        time: When it began, UTC; with `Reason.PEER_VANISHED`, when it was closed.
        outcome: What became of it.
        reason: Why, as a stable code; ``none`` if it was accepted.
        detail: Envoy's or the agent's own words about a failure; printable, at most 1024
            characters.
        side: Whose proxy reports.
        source: The client.
        destination: The requested address and port, before any redirection. In the tunnel the port
            is the server name, or the tunnel's own port if the server name isn't a port.
        peer: The client's SPIFFE ID, only if TLS verified it.
        claimed_peer: The SPIFFE ID in a certificate that was refused, or whose verification isn't
            known to have succeeded: a claim, not an identity.
        count: How many connections it stands for: more than one only if there were too many to
            report each.
        mode: The destination port's effective mode, if the destination is in the mesh.
        decided_by: The scope and policy that set the mode.
        tls_version: Such as ``TLSv1.3``; empty for plaintext.
        tls_cipher: The cipher suite's IANA name.
        tls_group: The key exchange, such as ``X25519MLKEM768``.
        duration_ms: From its start to this report.
        traced: `troth trace` made it: it is reported, but not counted as traffic.
    """

    time: datetime
    outcome: Outcome
    reason: Reason
    detail: str = ""
    side: Side
    source: Party
    destination: Party
    peer: str | None = None
    claimed_peer: str | None = None
    mode: Mode | None = None
    decided_by: DecidedBy | None = None
    tls_version: str = ""
    tls_cipher: str = ""
    tls_group: str = ""
    duration_ms: int = 0
    count: int = 1
    traced: bool = False


class Cause(msgspec.Struct, frozen=True):
    """Why a connection was refused or failed and what to do about it, in a sentence each.

    Attributes:
        manifests: YAML to apply against it, if known; any one of several is enough.
    """

    cause: str
    remedy: str
    manifests: str = ""


class ConnectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """A connection as the proxy or the kernel of one pod reports it: its ends are only addresses.

    Attributes:
        pod: UID of that pod.
        connection: Without names and mode. If connections were only counted, the pod's own end has
            no address.
    """

    pod: str
    connection: Connection

    @classmethod
    def of_count(
        cls,
        pod: str,
        *,
        time: datetime,
        count: int,
        outcome: Outcome,
        reason: Reason,
        side: Side,
        detail: str = "",
        other: str = "",
        port: int = 0,
    ) -> ConnectionReport:
        """A report about connections that were only counted.

        Args:
            pod: The attribute.
            time: When the count was read.
            count: How many connections there were; this and the next four as in `Connection`.
            outcome: What became of them.
            reason: Why.
            side: The pod's side.
            detail: More about it.
            other: The other end's address, if known.
            port: The requested port, if known.
        """
        by_client = side is Side.CLIENT
        return cls(
            pod=pod,
            connection=Connection(
                time=time,
                count=count,
                outcome=outcome,
                reason=reason,
                detail=detail,
                side=side,
                source=Party(address="" if by_client else other, port=0),
                destination=Party(address=other if by_client else "", port=port),
            ),
        )
