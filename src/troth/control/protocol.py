"""How the `troth` command talks to a running mesh: JSON lines over a Unix socket, 0600.

A connection carries one request and then its answer: one line, or several until either side closes.
A line ``{"error": ..., "peer": ..., "remedy": ...}`` ends the answer; only ``error`` is always
there.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from troth.errors import PeerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T = TypeVar("T")

NO_MESH = "start one with: troth up -d PATH; or ask a cluster with --context NAME or -n NAMESPACE"
_SHORTEST_WAIT = 0.001  # seconds; 0 would make the socket non-blocking


def call(
    path: Path, op: str, until: float | None = None, /, **arguments: object
) -> Iterator[dict[str, Any]]:
    """Ask the mesh behind the socket ``path``; yields the answer's lines as they come.

    Args:
        path: The mesh's control socket.
        op: The operation.
        until: The deadline, on the monotonic clock; None for none.
        arguments: The request's arguments.

    Raises:
        PeerError: No mesh runs there, or it refused.
        TimeoutError: The answer has not ended by the deadline.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise PeerError("troth", "no mesh is running", NO_MESH) from error
        with _ending(), connection.makefile("rb") as lines:
            connection.sendall(msgspec.json.encode({"op": op, **arguments}) + b"\n")
            while True:
                if until is not None:
                    connection.settimeout(max(until - time.monotonic(), _SHORTEST_WAIT))
                line = lines.readline()
                if not line:
                    return
                answer = msgspec.json.decode(line)
                if "error" in answer:
                    peer, remedy = answer.get("peer", "troth"), answer.get("remedy", "")
                    raise PeerError(peer, answer["error"], remedy)
                yield answer


def ask(path: Path, op: str, kind: type[T], **arguments: object) -> T:
    """Ask the mesh behind the socket ``path`` for one answer; raises as `call`."""
    for answer in call(path, op, **arguments):
        return msgspec.convert(answer, kind, strict=False)
    raise PeerError("troth", f"the mesh ended while it was asked to {op}")


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Turn a reset into an error: a mesh that ends resets the requests it has not accepted yet."""
    try:
        yield
    except ConnectionError as error:
        raise PeerError("troth", "the mesh ended before it answered") from error
