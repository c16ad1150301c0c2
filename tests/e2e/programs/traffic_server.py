"""A server with a protocol on each port, which says on its standard output what it received.

Each line of the output is a JSON object; ``port`` and ``event`` say what it is about.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
GUSH_BYTES = 32 * MIB
SIP_BYTES, SIP_SECONDS = 64 * 1024, 0.0005
NAME = socket.gethostname()


class Http(BaseHTTPRequestHandler):
    """Answers with the path, and counts the requests of each connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    requests = 0

    def do_GET(self) -> None:
        self.requests += 1
        body = f"{NAME} {self.requests} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def echo(connection: socket.socket) -> None:
    """What comes goes back."""
    while chunk := connection.recv(65536):
        connection.sendall(chunk)


def download(connection: socket.socket) -> None:
    """A line with a number asks for so many MiB; their digest comes behind them."""
    count = int(connection.makefile("rb").readline())
    digest = hashlib.sha256()
    block = bytearray(os.urandom(MIB))
    for index in range(count):
        block[:8] = index.to_bytes(8, "big")
        digest.update(block)
        connection.sendall(block)
    connection.sendall(digest.digest())


def upload(connection: socket.socket) -> None:
    """All that comes until the end of the stream is answered with its length and digest."""
    connection.sendall(summary(connection).encode())


def speak_first(connection: socket.socket) -> None:
    """A greeting, before the client has said anything, then a dialogue."""
    connection.sendall(b"220 ready\n")
    name = connection.makefile("rb").readline()
    connection.sendall(b"250 hello " + name)


def end_first(connection: socket.socket) -> None:
    """Says all it has to say, ends its half, and then hears the client out."""
    connection.sendall(b"that is all\n")
    connection.shutdown(socket.SHUT_WR)
    say(event="heard", received=summary(connection))


def gush(connection: socket.socket) -> None:
    """Sends 32 MiB and closes at once."""
    data = os.urandom(GUSH_BYTES)
    connection.sendall(data)
    say(event="gushed", sent=f"{len(data)} {hashlib.sha256(data).hexdigest()}")


def sip(connection: socket.socket) -> None:
    """Reads slowly to the end."""
    say(event="sipped", received=summary(connection, SIP_BYTES, SIP_SECONDS))


def lines(connection: socket.socket) -> None:
    """A command a line, an answer a line, as databases have it."""
    for number, line in enumerate(connection.makefile("rb"), 1):
        connection.sendall(f"{NAME} {number} ".encode() + line)


def watch_end(connection: socket.socket) -> None:
    """Says how the connection ended."""
    connection.sendall(b"watching\n")
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        say(event="end", how="reset")
    else:
        say(event="end", how="closed")


def abort(connection: socket.socket) -> None:
    """Resets the connection when it is asked anything."""
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def summary(connection: socket.socket, chunk: int = MIB, pause: float = 0.0) -> str:
    """Read to the end of the stream; what came, as its length and digest."""
    digest, received = hashlib.sha256(), 0
    while data := connection.recv(chunk):
        digest.update(data)
        received += len(data)
        if pause:
            time.sleep(pause)
    return f"{received} {digest.hexdigest()}"


PROTOCOLS: dict[int, Callable[[socket.socket], None]] = {
    7001: echo,
    7002: download,
    7003: upload,
    7004: speak_first,
    7005: end_first,
    7006: gush,
    7007: sip,
    7008: lines,
    7009: watch_end,
    7010: abort,
}
HTTP_PORT = 8080


def say(**what: object) -> None:
    """One line of output."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def serve(port: int, protocol: Callable[[socket.socket], None]) -> None:
    """Accept connections for ever, a thread for each."""

    def handle(connection: socket.socket) -> None:
        with connection:
            try:
                protocol(connection)
            except OSError as error:
                say(event="error", port=port, error=str(error))

    with socket.create_server(("", port), backlog=4096) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()


def main() -> None:
    """Serve all protocols."""
    for port, protocol in PROTOCOLS.items():
        threading.Thread(target=serve, args=(port, protocol), daemon=True).start()
    say(event="started", name=NAME, pid=os.getpid())
    ThreadingHTTPServer(("", HTTP_PORT), Http).serve_forever()


if __name__ == "__main__":
    main()
