"""Connects in plaintext, again and again, until the outcome is the one that is waited for.

A program of its own, because it runs inside a pod: ``probe.py HOST PORT``. Each line of standard
input, ``refused`` or ``answered``, is answered by a line with the clock (``CLOCK_MONOTONIC``, which
all processes of a machine share) at the end of the first connection with that outcome.
"""

from __future__ import annotations

import socket
import sys
import time

_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.0005


def outcome(address: tuple[str, int]) -> str:
    """What becomes of one byte sent to an echo server."""
    try:
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(b"?")
            return "answered" if connection.recv(1) else "refused"
    except ConnectionError:
        return "refused"


def await_outcome(address: tuple[str, int], wanted: str) -> float:
    """The time at which a connection first had that outcome."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while outcome(address) != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no connection was {wanted} in {_PATIENCE_SECONDS} s")
        time.sleep(_PAUSE_SECONDS)
    return time.monotonic()


if __name__ == "__main__":
    host, port = sys.argv[1:]
    for line in sys.stdin:
        sys.stdout.write(f"{await_outcome((host, int(port)), line.strip())}\n")
        sys.stdout.flush()
