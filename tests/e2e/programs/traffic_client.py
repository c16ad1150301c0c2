"""Clients of ``traffic_server.py``: ``ROLE HOST PORT [ARGUMENT]`` prints what it saw as JSON.

The role ``session`` is interactive instead: lines of standard input go to the server, lines of the
server to standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
SIP_BYTES, SIP_SECONDS = 64 * 1024, 0.0005
GUSH_BYTES = 32 * MIB
PATIENCE_SECONDS = 30


def keep_alive(host: str, port: int, count: str) -> dict[str, object]:
    """Many requests over one connection."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    wrong = []
    for number in range(1, int(count) + 1):
        path = f"/{os.urandom(number % 700).hex()}"
        connection.request("GET", path)
        _, nth, seen = connection.getresponse().read().decode().split()
        if (nth, seen) != (str(number), path):
            wrong.append(number)
    return {"wrong": wrong}


def download(host: str, port: int, mib: str) -> dict[str, object]:
    """Fetch so many MiB, and the digest that the server made of them."""
    with connect(host, port) as connection:
        connection.sendall(f"{mib}\n".encode())
        left = int(mib) * MIB
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(MIB))
        while left and (count := connection.recv_into(buffer, min(left, MIB))):
            digest.update(buffer[:count])
            left -= count
        theirs = read_to_end(connection)
    return {"missing": left, "ours": digest.hexdigest(), "theirs": theirs.hex()}


def upload(host: str, port: int, mib: str) -> dict[str, object]:
    """Send so many MiB, end our half, and get the server's length and digest."""
    with connect(host, port) as connection:
        digest = hashlib.sha256()
        block = bytearray(os.urandom(MIB))
        for index in range(int(mib)):
            block[:8] = index.to_bytes(8, "big")
            digest.update(block)
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        theirs = read_to_end(connection).decode()
    return {"ours": f"{int(mib) * MIB} {digest.hexdigest()}", "theirs": theirs}


def crowd(host: str, port: int, count: str) -> dict[str, object]:
    """Open many connections, hold them all, and have each echo bytes of its own."""

    async def one(number: int, all_open: asyncio.Barrier) -> bool:
        reader, writer = await asyncio.open_connection(host, port)
        mine = number.to_bytes(4, "big") * 1024
        for _ in range(2):
            writer.write(mine)
            if await reader.readexactly(len(mine)) != mine:
                return False
            await all_open.wait()
        writer.write_eof()
        rest = await reader.read()
        writer.close()
        return rest == b""

    async def everyone() -> list[bool]:
        all_open = asyncio.Barrier(int(count))
        return await asyncio.gather(*(one(number, all_open) for number in range(int(count))))

    return {"good": sum(asyncio.run(everyone()))}


def listen_first(host: str, port: int, name: str) -> dict[str, object]:
    """Say nothing before the server has greeted us."""
    with connect(host, port) as connection:
        greeting = connection.makefile("rb").readline()
        connection.sendall(f"{name}\n".encode())
        return {"greeting": greeting.decode(), "answer": read_to_end(connection).decode()}


def outlast(host: str, port: int, mib: str) -> dict[str, object]:
    """Hear the server out to the end of its half, and only then talk."""
    data = os.urandom(int(mib) * MIB)
    with connect(host, port) as connection:
        heard = read_to_end(connection)
        connection.sendall(data)
    return {"heard": heard.decode(), "sent": f"{len(data)} {hashlib.sha256(data).hexdigest()}"}


def sip(host: str, port: int, _: str) -> dict[str, object]:
    """Read slowly to the end."""
    digest, received = hashlib.sha256(), 0
    with connect(host, port) as connection:
        while data := connection.recv(SIP_BYTES):
            digest.update(data)
            received += len(data)
            time.sleep(SIP_SECONDS)
    return {"received": f"{received} {digest.hexdigest()}"}


def gush(host: str, port: int, _: str) -> dict[str, object]:
    """Send 32 MiB and close at once."""
    data = os.urandom(GUSH_BYTES)
    with connect(host, port) as connection:
        connection.sendall(data)
    return {"sent": f"{len(data)} {hashlib.sha256(data).hexdigest()}"}


def abort(host: str, port: int, _: str) -> dict[str, object]:
    """Reset the connection once the server has greeted us."""
    with connect(host, port) as connection:
        heard = connection.recv(65536)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return {"heard": heard.decode()}


def provoke(host: str, port: int, _: str) -> dict[str, object]:
    """Ask, and say how the connection ended."""
    with connect(host, port) as connection:
        connection.sendall(b"?")
        try:
            connection.recv(1)
        except ConnectionResetError:
            return {"end": "reset"}
        return {"end": "closed"}


def names(host: str, port: int, count: str) -> dict[str, object]:
    """Ask over many new connections who answers."""
    seen: dict[str, int] = {}
    for _ in range(int(count)):
        name = "nobody"
        with contextlib.suppress(OSError), connect(host, port) as connection:
            connection.sendall(b"who\n")
            if answer := connection.makefile("rb").readline():
                name = answer.split()[0].decode()
        seen[name] = seen.get(name, 0) + 1
    return {"names": seen}


def load(host: str, port: int, _: str) -> dict[str, object]:
    """HTTP until standard input ends: one connection kept alive, and a new one for each request."""
    ended = threading.Event()

    def await_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=await_end, daemon=True).start()
    kept = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    failures: list[str] = []
    counts = {"kept": 0, "new": 0}
    while not ended.is_set():
        new = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
        for kind, connection in (("kept", kept), ("new", new)):
            try:
                connection.request("GET", "/")
                nth = int(connection.getresponse().read().split()[1])
                counts[kind] += 1
                if nth != (counts["kept"] if kind == "kept" else 1):
                    failures.append(f"{kind}: another connection took over")
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{kind}: {error!r}")
        new.close()
    return {"failures": failures, **counts}


def session(host: str, port: int) -> None:
    """Relay lines both ways until standard input ends."""
    with connect(host, port, timeout=None) as connection:

        def show() -> None:
            for line in connection.makefile("rb"):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

        shown = threading.Thread(target=show)
        shown.start()
        for line in sys.stdin.buffer:
            connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        shown.join()


def connect(host: str, port: int, timeout: float | None = PATIENCE_SECONDS) -> socket.socket:
    """A connection to the server."""
    connection = socket.create_connection((host, port), timeout=PATIENCE_SECONDS)
    connection.settimeout(timeout)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


ROLES: dict[str, Callable[[str, int, str], dict[str, object]]] = {
    role.__name__: role
    for role in (
        *(keep_alive, download, upload, crowd, listen_first, outlast),
        *(sip, gush, abort, provoke, names, load),
    )
}


def main(role: str, host: str, port: str, argument: str = "") -> None:
    """Play one role."""
    if role == "session":
        session(host, int(port))
    else:
        sys.stdout.write(json.dumps(ROLES[role](host, int(port), argument)))


if __name__ == "__main__":
    main(*sys.argv[1:])
