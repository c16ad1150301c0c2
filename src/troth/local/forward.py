"""Leads connections to sockets of this machine into a pod, for `troth port-forward`.

``python -m troth.local.forward NETNS FD:PORT...`` is started inside the mesh's namespaces with
listening sockets as its descriptors: those belong to the network of whoever has made them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

from troth.agent.netns import socket_in
from troth.errors import TrothError

_CHUNK = 65536
_LOOPBACKS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


async def forward(netns: Path, listener: socket.socket, port: int) -> None:
    """Accept for ever, and lead each connection to a port on the pod's loopback."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await _connect(netns, port)
        except (OSError, TrothError) as error:
            sys.stderr.write(f"error forwarding port {port}: {error}\n")
            writer.close()
            return
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
        there[1].close()
        writer.close()

    server = await asyncio.start_server(serve, sock=listener)
    async with server:
        await server.serve_forever()


async def _connect(netns: Path, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first of the pod's loopback addresses where something listens."""
    failure: OSError | None = None
    for family, address in _LOOPBACKS.items():
        connection = socket_in(netns, family)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
        except OSError as error:
            connection.close()
            failure = failure or error
        else:
            return await asyncio.open_connection(sock=connection)
    assert failure is not None  # noqa: S101 - there are addresses
    raise failure


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()  # or its other end would wait for an answer that never comes


async def _forward_all(netns: Path, pairs: list[str]) -> None:
    async with asyncio.TaskGroup() as group:
        for pair in pairs:
            descriptor, _, port = pair.partition(":")
            listener = socket.socket(fileno=int(descriptor))
            group.create_task(forward(netns, listener, int(port)))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_forward_all(Path(sys.argv[1]), sys.argv[2:]))
