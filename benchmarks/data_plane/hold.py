"""Keeps connections open: ``hold.py HOST PORT COUNT``, until standard input ends."""

from __future__ import annotations

import socket
import sys

_REQUEST = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"


def main() -> None:
    """Open them, see that each is good for a request, say so, and wait."""
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    held = [socket.create_connection((host, port), timeout=20) for _ in range(count)]
    for connection in held:
        connection.sendall(_REQUEST)
    for connection in held:
        if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
            sys.exit("no answer")
    print("held", flush=True)  # noqa: T201 - the sign that is waited for
    sys.stdin.read()


main()
