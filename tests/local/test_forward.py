"""Leading connections into a pod; its network namespace is this one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

from troth.local.forward import forward

HERE = Path("/proc/self/ns/net")
AT_ONCE = struct.pack("ii", 1, 0)


async def test_a_connection_that_the_pod_resets_ends_for_the_client_too() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        writer.close()

    pod = await asyncio.start_server(reset, "127.0.0.1", 0)
    listener = socket.create_server(("127.0.0.1", 0))
    port = pod.sockets[0].getsockname()[1]
    forwarding = asyncio.create_task(forward(HERE, listener, port))
    try:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"hello")
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
    finally:
        forwarding.cancel()
        pod.close()
