"""Envoy, the one proxy of a node: what it is told, that it runs, and what it reports.

`SnapshotKeeper` turns a node's view of the mesh into resources (pure); `AdsServer` hands them to
Envoy; `EnvoyProcess` keeps it running; `AccessLogPipe` turns its access log into
`ConnectionEvent` values, `OverflowWatch` its counters into `Overflow` values; `Worker` says when
what Envoy was told is in force.
"""

from __future__ import annotations

from troth.envoy._ads import AdsServer
from troth.envoy._bootstrap import bootstrap
from troth.envoy._build import SnapshotKeeper, build_snapshot
from troth.envoy._command import EnvoyOptions, find_envoy
from troth.envoy._events import ConnectionEvent
from troth.envoy._limits import (
    CONNECT_SECONDS,
    HANDSHAKE_SECONDS,
    HELLO_SECONDS,
    POD_CONNECTIONS,
    Limits,
)
from troth.envoy._logpipe import AccessLogPipe
from troth.envoy._overflow import Overflow
from troth.envoy._overflow_watch import OverflowWatch
from troth.envoy._ports import (
    APP_MARK,
    ENVOY_MARK,
    INBOUND_PORT,
    OUTBOUND_PORT,
    OWN_PORTS,
    PORT_SETS,
    TUNNEL_ALPN,
    TUNNEL_PORT,
    PortSet,
)
from troth.envoy._process import EnvoyProcess
from troth.envoy._snapshot import Resource, Snapshot
from troth.envoy._status import AdsStatus, Nack
from troth.envoy._worker import Worker

__all__ = [
    "APP_MARK",
    "CONNECT_SECONDS",
    "ENVOY_MARK",
    "HANDSHAKE_SECONDS",
    "HELLO_SECONDS",
    "INBOUND_PORT",
    "OUTBOUND_PORT",
    "OWN_PORTS",
    "POD_CONNECTIONS",
    "PORT_SETS",
    "TUNNEL_ALPN",
    "TUNNEL_PORT",
    "AccessLogPipe",
    "AdsServer",
    "AdsStatus",
    "ConnectionEvent",
    "EnvoyOptions",
    "EnvoyProcess",
    "Limits",
    "Nack",
    "Overflow",
    "OverflowWatch",
    "PortSet",
    "Resource",
    "Snapshot",
    "SnapshotKeeper",
    "Worker",
    "bootstrap",
    "build_snapshot",
    "find_envoy",
]
