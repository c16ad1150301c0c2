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
    """One connection, as one end's proxy reports it, seen with the world of that moment.

    Attributes:
        time: When it began; with `Reason.PEER_VANISHED`, when it was given up.
        count: How many connections it tells of: more than one only where they were too many to be
            looked at one by one.
        mode: The destination port's effective mode, where the destination is in the mesh.
        decided_by: The scope and policy that set the mode.
        traced: `troth trace` made it: it is told of, and not counted as anybody's traffic.
    """

    time: datetime
    outcome: Outcome
    reason: Reason
    detail: str
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
