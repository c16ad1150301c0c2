"""A traced connection in its mesh: what both ends decide by policy, and what the wire says."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from troth.handshake.steps import TraceReport
from troth.mesh.decisions import ClientDecision, ServerDecision
from troth.traffic.connection import Connection


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
