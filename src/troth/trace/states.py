"""The states a step leaves things in: of both sides, both certificates and the connection."""

from __future__ import annotations

from enum import StrEnum


class ClientState(StrEnum):
    """States of RFC 8446 appendix A.1."""

    START = "START"
    WAIT_SH = "WAIT_SH"
    WAIT_EE = "WAIT_EE"
    WAIT_CERT_CR = "WAIT_CERT_CR"
    WAIT_CERT = "WAIT_CERT"
    WAIT_CV = "WAIT_CV"
    WAIT_FINISHED = "WAIT_FINISHED"
    # The RFC has no name between receiving the server's Finished and having sent one's own.
    ANSWERING = "(answering)"
    CONNECTED = "CONNECTED"
    CLOSED = "(closed)"


class ServerState(StrEnum):
    """States of RFC 8446 appendix A.2, those without early data."""

    START = "START"
    NEGOTIATED = "NEGOTIATED"
    WAIT_CERT = "WAIT_CERT"
    WAIT_FINISHED = "WAIT_FINISHED"
    CONNECTED = "CONNECTED"
    CLOSED = "(closed)"


class CertificateStatus(StrEnum):
    """How far one side's certificate has come with the other side."""

    NOT_SENT = "not sent"
    REQUESTED = "requested"
    WITHHELD = "withheld"
    SENT = "sent"
    TRUSTED = "trusted"
    VERIFIED = "verified"
    REFUSED = "refused"


class ConnectionStatus(StrEnum):
    """What the connection is good for."""

    NONE = "none"
    NEGOTIATING = "negotiating"
    ENCRYPTED = "encrypted"
    SERVER_AUTHENTICATED = "server authenticated"
    ESTABLISHED = "established"
    REFUSED = "refused"
    CLOSED = "closed"
