"""A server of the policy tests: ``hello.py NAME PROTOCOL:PORT...``, on IPv4 and IPv6.

``http`` answers each request with its name, the port and the path, or at ``/who`` with the client's
address, ``echo`` sends back what it gets, ``udp`` does so with datagrams. Each TCP connection is a
line of standard output.

With the directory ``LINGER`` in its environment it doesn't end when told to: it makes the file
``told`` there, goes on, and ends when there is a file ``leave``, which it answers by ``left``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from pathlib import Path


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    path = request.split()[1].decode()
    client: str = writer.get_extra_info("peername")[0]
    body = (client if path.strip("/") == "who" else f"{text} {path}").encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: str) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # datagrams have their own
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._transport.sendto(data, address)


async def accept(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, protocol: str, text: str
) -> None:
    sys.stdout.write(f"connection from {writer.get_extra_info('peername')[0]} to {text}\n")
    sys.stdout.flush()
    try:
        await (http if protocol == "http" else echo)(reader, writer, text)
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client's affair
    finally:
        writer.close()


async def main(name: str, *listeners: str) -> None:
    told = asyncio.Event()
    if "LINGER" in os.environ:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    for listener in listeners:
        protocol, port = listener.split(":")
        if protocol == "udp":
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(Udp, local_addr=("::", int(port)))
        else:
            serve = functools.partial(accept, protocol=protocol, text=f"{name} {port}")
            await asyncio.start_server(serve, port=int(port))
    await told.wait()
    await leave(Path(os.environ["LINGER"]))


async def leave(directory: Path) -> None:
    """End when there is a file that says so."""
    (directory / "told").touch()
    while not (directory / "leave").exists():  # noqa: ASYNC110 - a file is no event
        await asyncio.sleep(0.02)
    (directory / "left").touch()


asyncio.run(main(*sys.argv[1:]))
