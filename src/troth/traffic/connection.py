"""What became of connections: who talked to whom, how, and which policy decided."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy

UNKNOWN = "(unknown)"
"""Stands for an end of a connection of which not even the address is known."""


class Outcome(StrEnum):
    """What became of a connection."""

    ACCEPTED = "accepted"
    """By the tunnel, from a verified peer."""
    PLAINTEXT = "plaintext"
    """Passed in plaintext, as the policy of the port allows."""
    REFUSED = "refused"
    """By policy, or because one side couldn't prove who it is."""
    FAILED = "failed"
    """Nothing forbade it, but it didn't get where it was going."""

    @property
    def is_trouble(self) -> bool:
        """Whether it is to be explained."""
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
    """The other side broke the handshake off with an alert, such as ``UNKNOWN_CA``."""
    TLS_PARAMETERS = "tls_parameters"
    """The two share no TLS version, cipher suite, group or application protocol."""
    NOT_TLS = "not_tls"
    NO_HANDSHAKE = "no_handshake"
    """It came to the tunnel and left without a complete handshake, as port scanners do."""
    HANDSHAKE_FAILED = "handshake_failed"
    BAD_SERVER_NAME = "bad_server_name"
    """The tunnel's server name is no port that may be asked for."""
    RESERVED_PORT = "reserved_port"
    """A process dialled one of troth's own ports, which lead nowhere by themselves."""
    NO_CERTIFICATE_YET = "no_certificate_yet"
    """This side has no certificate of its own so far."""
    PEER_VANISHED = "peer_vanished"
    """The client of an open connection by the tunnel stopped answering, and was given up."""
    APP_UNREACHABLE = "app_unreachable"
    UNREACHABLE = "unreachable"
    """The destination (or the tunnel there) doesn't take connections."""
    NO_ENDPOINTS = "no_endpoints"
    NOT_CONFIGURED = "not_configured"
    """Envoy doesn't know the destination (yet)."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    """The pod had as many open as one pod may have."""
    TOO_MANY_UNPROVED = "too_many_unproved"
    """It came to the tunnel more often than one may who has proved no identity."""
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
        address: Its IP; empty where it isn't known.
        port: Its TCP port; 0 where it isn't known.
        pod: ``NAMESPACE/NAME`` where the address is a known pod's.
        workload: ``NAMESPACE/NAME`` of what a person deployed, where known.
    """

    address: str
    port: int
    pod: str | None = None
    workload: str | None = None

    @property
    def name(self) -> str:
        """The workload's name or, for want of one, the address."""
        return self.workload or self.address or UNKNOWN


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One connection, as one end's proxy reports it, with the names and policies of that moment.

    The journal keeps it, and reviews and the control socket carry it, as it is; ``troth events
    -o json`` prints it.

    Attributes:
        time: When it began, UTC; with `Reason.PEER_VANISHED`, when it was given up.
        outcome: What became of it.
        reason: Why, as a stable code; ``none`` for what was accepted.
        detail: Envoy's own words about a failure, or the agent's; printable, at most 1024
            characters.
        side: Whose proxy reports.
        source: Where it came from.
        destination: Where it was going, before any redirection, at the port asked for. In the
            tunnel that is the server name, and the tunnel's own port when the server name is no
            port.
        peer: The client's SPIFFE ID, only where TLS verified it.
        claimed_peer: The SPIFFE ID in a certificate that was refused, or whose verification isn't
            known to have succeeded: a claim, not an identity.
        count: How many connections it tells of: more than one only where they were too many to be
            looked at one by one.
        mode: The destination port's effective mode, where the destination is in the mesh.
        decided_by: The scope and policy that set the mode.
        tls_version: Such as ``TLSv1.3``; empty for plaintext.
        tls_cipher: The cipher suite's IANA name.
        tls_group: The key exchange, such as ``X25519MLKEM768``.
        duration_ms: From its start to this report.
        traced: `troth trace` made it: it is told of, and not counted as anybody's traffic.
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
        manifests: What to apply for it (YAML), where that is known; of several any one.
    """

    cause: str
    remedy: str
    manifests: str = ""


class ConnectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """A connection as the proxy or the kernel of one pod reports it: its ends are only addresses.

    Attributes:
        pod: UID of that pod.
        connection: Without names, and without a mode. Where connections were only counted, the
            pod's own end has no address.
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
        """What is known by a count alone.

        Args:
            pod: As of the attribute.
            time: When it was looked at.
            count: How many connections there were; this and the next four as of `Connection`.
            outcome: What became of them.
            reason: Why.
            side: Whose end the pod is.
            detail: More about it.
            other: The other end's address, where that is known.
            port: The one asked for, where that is known.
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
