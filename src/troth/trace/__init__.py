"""One TLS 1.3 handshake as data: bytes in, steps out.

`trace_connection` makes a real connection, `HandshakeTrace` is the same without a socket,
`build_report` tells what it recorded as steps, and `render_report` shows them. A `Trace` sets the
report beside what the mesh's policies say about the connection.
"""

from __future__ import annotations

from troth.trace._certificates import CertificateFacts, ClientCredentials
from troth.trace._connect import trace_connection
from troth.trace._handshake import HandshakeTrace
from troth.trace._names import Kind, Side
from troth.trace._record import Event, HandshakeRecord, Verdict
from troth.trace._render import (
    decision_rows,
    render_report,
)
from troth.trace._states import CertificateStatus, ClientState, ConnectionStatus, ServerState
from troth.trace._steps import Step, TraceReport, TrackerRow, build_report
from troth.trace._trace import Credentials, Trace

__all__ = [
    "CertificateFacts",
    "CertificateStatus",
    "ClientCredentials",
    "ClientState",
    "ConnectionStatus",
    "Credentials",
    "Event",
    "HandshakeRecord",
    "HandshakeTrace",
    "Kind",
    "ServerState",
    "Side",
    "Step",
    "Trace",
    "TraceReport",
    "TrackerRow",
    "Verdict",
    "build_report",
    "decision_rows",
    "render_report",
    "trace_connection",
]
