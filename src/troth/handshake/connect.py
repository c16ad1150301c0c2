"""Tracing over a real socket: the package's only input and output."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from troth.handshake.handshake import HandshakeTrace
from troth.handshake.steps import build_report

if TYPE_CHECKING:
    import socket

    from troth.handshake.certificates import ClientCredentials
    from troth.handshake.steps import TraceReport
    from troth.identity.spiffe import SpiffeId

_CHUNK = 65536
# Seconds for a server to refuse the client before the client sends data. An alert comes at once; a
# server that accepts is silent: Envoy's BoringSSL holds back even session tickets until it has data
# to send.
_PATIENCE = 0.2


async def trace_connection(
    sock: socket.socket,
    *,
    server_name: str,
    client: ClientCredentials | None,
    bundle: bytes,
    expected: SpiffeId | None,
    timeout: float,  # noqa: ASYNC109 - running out of time is a result here, not an exception
    payload: bytes = b"",
) -> TraceReport:
    """Make one TLS 1.3 connection over ``sock`` and report each step.

    Args:
        sock: Connected and non-blocking; it stays the caller's to close.
        server_name: The SNI; in a tunnel the destination's port, such as ``8080``.
        client: What the client presents on request; None presents no certificate.
        bundle: PEM certificates of the authorities that may vouch for the server.
        expected: The SPIFFE ID the server must have; None accepts any.
        timeout: Seconds for everything.
        payload: Data to send to a server that doesn't refuse, such as an HTTP request; the report
            then has the first bytes of the answer. Only such an answer shows that Envoy has
            accepted the client: without a payload the verdict stays undecided.

    Raises:
        InputError: ``bundle`` contains no readable certificate.
    """
    handshake = HandshakeTrace(
        server_name=server_name,
        credentials=client,
        bundle=bundle,
        expected=expected,
        now=datetime.now(UTC),
    )
    await _Wire(sock, handshake, timeout).run(payload)
    return build_report(handshake.record())


class _Wire:
    """A socket with a handshake on it, until a deadline."""

    def __init__(self, sock: socket.socket, handshake: HandshakeTrace, timeout: float) -> None:
        self._sock = sock
        self._handshake = handshake
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._deadline = self._start + timeout
        self._receiving: asyncio.Future[bytes] | None = None
        self._waited = 0.0

    @property
    def _elapsed_ms(self) -> float:
        """The time that TLS and the network took, without our own deliberate waiting."""
        return (self._loop.time() - self._start - self._waited) * 1000

    async def run(self, payload: bytes) -> None:
        handshake = self._handshake
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._send(handshake.start(self._elapsed_ms))
                await self._converse(payload)
        except TimeoutError:
            handshake.timed_out(self._elapsed_ms)
        except OSError:  # probably a reset; what the server sent before it still counts
            with contextlib.suppress(OSError):
                handshake.receive(self._sock.recv(_CHUNK), self._elapsed_ms)
            handshake.closed(self._elapsed_ms, reset=True)
        finally:
            if self._receiving:
                self._receiving.cancel()
        with contextlib.suppress(OSError):  # the server may have closed already
            if goodbye := handshake.close(self._elapsed_ms):
                self._sock.send(goodbye)

    async def _converse(self, payload: bytes) -> None:
        """Until the verdict, and if there is a payload, until its answer begins."""
        handshake = self._handshake
        asked = False
        while not handshake.over and not handshake.settled:
            # Data sent to a server that is about to refuse can cost the alert: the kernel resets a
            # connection that is closed with unread data. So it waits, unless the server is silent.
            waiting = handshake.finished and payload and not asked
            if await self._hears(_PATIENCE if waiting else None):
                continue
            await self._send(handshake.send(payload, self._elapsed_ms))
            asked = True
        if payload and not asked:
            await self._send(handshake.send(payload, self._elapsed_ms))
        while payload and not handshake.over and not handshake.received:
            await self._hears(None)

    async def _hears(self, patience: float | None) -> bool:
        """Receive data; False if none came within ``patience``."""
        if self._receiving is None:
            receiving = self._loop.sock_recv(self._sock, _CHUNK)
            self._receiving = self._loop.create_task(receiving)
        # Not a timeout around it, which could lose what arrives at that very moment.
        done, _ = await asyncio.wait({self._receiving}, timeout=patience)
        if not done:
            self._waited += patience or 0
            return False
        data, self._receiving = self._receiving.result(), None
        if data:
            await self._send(self._handshake.receive(data, self._elapsed_ms))
        else:
            self._handshake.closed(self._elapsed_ms)
        return True

    async def _send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)
