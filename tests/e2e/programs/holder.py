"""Opens connections to an echo server and keeps them: ``holder.py HOST PORT COUNT``.

Says as JSON how many were served and how many were closed without an answer; ends with its input.
"""

from __future__ import annotations

import json
import socket
import sys


def main(host: str, port: int, count: int) -> None:
    """Open them one after the other, so that which of them are too many is no accident."""
    kept = []
    cut = 0
    for _ in range(count):
        connection = socket.create_connection((host, port), timeout=60)
        try:
            connection.sendall(b"x")
            served = connection.recv(1) == b"x"
        except ConnectionError:
            served = False
        if served:
            kept.append(connection)
        else:
            cut += 1
    sys.stdout.write(json.dumps({"served": len(kept), "cut": cut}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
