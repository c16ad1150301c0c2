"""Makes connections on request: a JSON object a line in, its answer out; see `tests.e2e.client`."""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_PAUSE_SECONDS = 0.005
MOST_ROUNDS_A_SECOND = 1000
"""Of all connections that are opened together, so that they leave the machine time for others."""


class Stream:
    """An echo connection, used again and again until told to stop."""

    def __init__(self, connection: socket.socket, pause: float) -> None:
        self._connection = connection
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds, self.error, self.ended = 0, "", 0.0
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                text = f"{self.rounds:08}".encode()
                self._connection.sendall(text)
                if (got := exactly(self._connection, len(text))) != text:
                    raise OSError(f"sent {text!r}, got {got!r}")  # noqa: TRY301 - one way out
                self.rounds += 1
        except OSError as error:
            self.error, self.ended = named(error), time.monotonic()
        finally:
            self._connection.close()


held: dict[int, Any] = {}


def get(host: str, port: int, path: str, seconds: float) -> dict[str, Any]:
    with socket.create_connection((host, port), timeout=seconds) as connection:
        local = connection.getsockname()[1]
        try:
            return {"body": ask(connection, path), "port": local}
        except OSError as error:
            return {"error": named(error), "port": local}


def tls(
    host: str, port: int, *, path: str, files: dict[str, str], name: str | None, alpn: list[str]
) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    if files:
        context.load_cert_chain(files["certificate"], files["key"])
    with socket.create_connection((host, port), timeout=5) as connection:
        local = connection.getsockname()[1]
        try:
            with context.wrap_socket(connection, server_hostname=name) as encrypted:
                return {"body": ask(encrypted, path), "port": local}
        except OSError as error:
            return {"error": named(error), "port": local}


def udp(host: str, port: int, text: str) -> dict[str, Any]:
    ((family, *_, address), *_rest) = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    with socket.socket(family, socket.SOCK_DGRAM) as connection:
        connection.settimeout(5)
        connection.sendto(text.encode(), address)
        return {"body": connection.recv(65536).decode()}


def stream(host: str, port: int, count: int) -> dict[str, Any]:
    pause = max(LEAST_PAUSE_SECONDS, count / MOST_ROUNDS_A_SECOND)
    for _ in range(count):
        held[len(held)] = Stream(socket.create_connection((host, port), timeout=5), pause)
    return {"streams": list(held)[-count:]}


def rounds(streams: list[int]) -> dict[str, Any]:
    return {"rounds": [held[number].rounds for number in streams], "now": time.monotonic()}


def stop(streams: list[int]) -> dict[str, Any]:
    for number in streams:
        held[number].stop()
    return {
        "errors": [held[number].error for number in streams],
        "ended": [held[number].ended for number in streams],
    }


def ended(streams: list[int], seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(held[number].error for number in streams):
        time.sleep(0.005)
    return {"errors": [held[number].error for number in streams]}


def ask(connection: socket.socket, path: str) -> str:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    reply = b""
    while data := connection.recv(65536):
        reply += data
    head, separator, body = reply.partition(b"\r\n\r\n")
    if not separator:
        raise ConnectionAbortedError(f"closed after {head!r}")
    return body.decode()


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        select.select([connection], [], [], 10)
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionAbortedError("closed by the other side")
        data += more
    return data


def named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "get": get,
    "tls": tls,
    "udp": udp,
    "stream": stream,
    "rounds": rounds,
    "ended": ended,
    "stop": stop,
}

say({"ready": True})
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = OPERATIONS[request.pop("op")](**request)
    except OSError as failure:
        answer = {"error": named(failure)}
    say(answer)
stop(list(held))
