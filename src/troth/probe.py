"""A kubelet's exec probe of the node agent: ``python -m troth.probe SOCKET [PATH]``.

It prints the answer; the exit code is 0 if the status is 200. It imports next to nothing, because
it runs every few seconds on every node.
"""

from __future__ import annotations

import socket
import sys

_SECONDS = 5.0
_ARGUMENTS = (2, 3)
_WRONG_USE = 2


def ask(path: str, what: str = "/readyz") -> tuple[bool, str]:
    """Whether the answer at a Unix socket has status 200, and the answer.

    Args:
        path: The socket.
        what: The path to GET.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(path)
            connection.sendall(f"GET {what} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError as error:
            return False, f"{path}: {error.strerror or error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 "), body.decode(errors="replace")


def main(arguments: list[str]) -> int:
    """Run the program; returns its exit code."""
    if len(arguments) not in _ARGUMENTS:
        sys.stderr.write("usage: python -m troth.probe SOCKET [PATH]\n")
        return _WRONG_USE
    good, text = ask(*arguments[1:])
    sys.stdout.write(f"{text}\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
