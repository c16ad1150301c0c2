"""Asking the mesh on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from troth.connect.findings import Attempt, EnvoyStatus, Listening, Route
from troth.connect.report import Trace
from troth.control.messages import MeshStatus
from troth.control.protocol import call
from troth.errors import PeerError
from troth.traffic.connection import Cause

if TYPE_CHECKING:
    from pathlib import Path

    from troth.connect.report import Credentials
    from troth.traffic.connection import Connection

T = TypeVar("T")


class ControlSocket:
    """The mesh behind a control socket, as a `Mesh`.

    Args:
        path: The socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def route(self, source: str, destination: str, port: int) -> Route:
        """Where a connection would go."""
        return self._ask("route", Route, source=source, destination=destination, port=port)

    def connect(
        self, source: str, destination: str, port: int, *, past_tunnel: bool, seconds: float
    ) -> Attempt:
        """Make a connection."""
        return self._ask(
            "connect",
            Attempt,
            source=source,
            destination=destination,
            port=port,
            uncaptured=past_tunnel,
            timeout=seconds,
        )

    def trace(
        self,
        source: str,
        destination: str,
        port: int,
        *,
        credentials: Credentials,
        claim: str | None,
    ) -> Trace:
        """Make a handshake."""
        return self._ask(
            "trace",
            Trace,
            source=source,
            destination=destination,
            port=port,
            credentials=credentials,
            claim=claim,
        )

    def cause(self, connection: Connection) -> Cause:
        """What explains a connection."""
        return self._ask("cause", Cause, connection=connection)

    def listening(self, pod: str) -> Listening:
        """Where a pod's processes listen."""
        return self._ask("listening", Listening, name=pod)

    def envoy(self) -> EnvoyStatus:
        """How Envoy is."""
        return self._ask("status", MeshStatus).envoy

    def _ask(self, op: str, kind: type[T], **arguments: object) -> T:
        for answer in call(self._path, op, **arguments):
            return msgspec.convert(answer, kind, strict=False)
        raise PeerError("troth", f"the mesh ended while it was asked to {op}")
