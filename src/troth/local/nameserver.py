"""The mesh's name server: what it says itself, and what the host's name servers say.

It listens at the gateway's addresses, which all pods reach by their own link. What a pod sends is
hostile until parsed, and no pod may take the server from the others: there is a limit to what one
of them has under way, and nothing is read for longer than a question can take.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import structlog

from troth.errors import EnvironmentLackError
from troth.local.names import HEADER_BYTES, LONGEST_QUERY, Names, Reply, encoded, parse, respond

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

PORT = 53
_UPSTREAM_SECONDS = 1.5
_IDLE_SECONDS = 10.0
_MOST_OF_ALL, _MOST_OF_ONE = 256, 32
"""Questions to the host's name servers and TCP connections that are under way."""

_log = structlog.get_logger(__name__)


class NameServer:
    """Answers the pods' DNS questions.

    Args:
        addresses: Where it listens.
        upstreams: Says which name servers' IPs to ask about names outside the mesh. Without any
            those names don't exist: there is no way out of such a mesh.
        port: Its own, and that of the upstreams.

    Attributes:
        names: What it knows; to be replaced when that changes.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        upstreams: Callable[[], Sequence[str]] = tuple,
        *,
        port: int = PORT,
    ) -> None:
        self.names = Names()
        self._addresses = tuple(addresses)
        self._upstreams = upstreams
        self._port = port
        self._tasks: set[asyncio.Task[Any]] = set()
        self._busy: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer during the block.

        Raises:
            EnvironmentLackError: An address can't be had.
        """
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            for address in self._addresses:
                try:
                    transport, _ = await loop.create_datagram_endpoint(
                        lambda: _Datagrams(self), local_addr=(address, self._port)
                    )
                    stack.callback(transport.close)
                    server = await asyncio.start_server(self._converse, address, self._port)
                    stack.callback(server.close)
                except OSError as error:
                    raise EnvironmentLackError(
                        f"cannot answer DNS questions at {address}: {error.strerror}",
                        "run the mesh in a network namespace of its own",
                    ) from error
            stack.push_async_callback(self._cancel)  # first of all, while they can still answer
            yield

    def receive(
        self, wire: bytes, client: tuple[Any, ...], reply: asyncio.DatagramTransport
    ) -> None:
        """Answer one datagram: at once if the mesh can."""
        query = parse(wire)
        if isinstance(query, bytes):
            reply.sendto(query, client)
        elif query is not None:
            answer = respond(query, self.names)
            if answer.outside is None:
                reply.sendto(encoded(query, answer.message, tcp=False), client)
                return

            async def finish() -> None:
                await self._complete(answer, query, str(client[0]))
                reply.sendto(encoded(query, answer.message, tcp=False), client)

            task = asyncio.create_task(finish())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the questions of one TCP connection (RFC 7766)."""
        client = str(writer.get_extra_info("peername")[0])
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        broken = contextlib.suppress(OSError, EOFError, TimeoutError)
        with contextlib.closing(writer), broken, self._under_way(client) as taken:
            while taken and await self._answer_next(reader, writer, client):
                pass

    async def _answer_next(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str
    ) -> bool:
        async with asyncio.timeout(_IDLE_SECONDS):
            length = int.from_bytes(await reader.readexactly(2))
            if not HEADER_BYTES <= length <= LONGEST_QUERY:
                return False
            query = parse(await reader.readexactly(length))
            if query is None:
                return False
            wire = query if isinstance(query, bytes) else await self._reply(query, client)
            writer.write(len(wire).to_bytes(2) + wire)
            await writer.drain()
            return True

    async def _reply(self, query: dns.message.QueryMessage, client: str) -> bytes:
        answer = respond(query, self.names)
        if answer.outside is not None:
            await self._complete(answer, query, client)
        return encoded(query, answer.message, tcp=True)

    async def _complete(self, answer: Reply, query: dns.message.QueryMessage, client: str) -> None:
        """Add what others say about the name that leads out of the mesh."""
        message, name = answer.message, answer.outside
        upstreams = self._upstreams()
        if name is None or not upstreams:
            message.set_rcode(dns.rcode.NXDOMAIN)
            return
        with self._under_way(client) as taken:
            found = await self._ask(upstreams, name, query) if taken else None
        if found is None:
            message.set_rcode(dns.rcode.SERVFAIL)
            return
        message.set_rcode(found.rcode())
        message.answer.extend(found.answer)
        message.authority.extend(found.authority)
        message.additional.extend(found.additional)

    async def _ask(
        self, upstreams: Sequence[str], name: dns.name.Name, query: dns.message.QueryMessage
    ) -> dns.message.Message | None:
        wanted = dns.message.make_query(
            name,
            query.question[0].rdtype,
            use_edns=0,
            payload=LONGEST_QUERY,
            want_dnssec=bool(query.ednsflags & dns.flags.DO),
        )
        for server in upstreams:
            try:
                async with asyncio.timeout(_UPSTREAM_SECONDS):
                    return await self._ask_server(server, wanted)
            except (
                OSError,
                EOFError,
                TimeoutError,
                dns.exception.DNSException,
                ValueError,
            ) as error:
                _log.info("a name server doesn't answer", server=server, reason=repr(error))
        return None

    async def _ask_server(
        self, server: str, wanted: dns.message.QueryMessage
    ) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[dns.message.Message] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Question(wanted, answered), remote_addr=(server, self._port)
        )
        try:
            found = await answered
        finally:
            transport.close()
        if not found.flags & dns.flags.TC:
            return found
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            wire = wanted.to_wire()
            writer.write(len(wire).to_bytes(2) + wire)
            length = int.from_bytes(await reader.readexactly(2))
            found = dns.message.from_wire(await reader.readexactly(length))
        finally:
            writer.close()
        if not wanted.is_response(found):
            raise ValueError("not an answer to what was asked")
        return found

    @contextlib.contextmanager
    def _under_way(self, client: str) -> Iterator[bool]:
        """Whether a client may have one more thing under way; it has during the block."""
        if self._busy.total() >= _MOST_OF_ALL or self._busy[client] >= _MOST_OF_ONE:
            yield False
            return
        self._busy[client] += 1
        try:
            yield True
        finally:
            self._busy[client] -= 1
            if not self._busy[client]:
                del self._busy[client]

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Datagrams(asyncio.DatagramProtocol):
    """Hands on what comes to one of the server's addresses."""

    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        assert self._transport is not None  # noqa: S101 - made before anything is received
        self._server.receive(data, addr, self._transport)


class _Question(asyncio.DatagramProtocol):
    """Asks one question and waits for what answers it; anything else may be forged."""

    def __init__(
        self, wanted: dns.message.QueryMessage, answered: asyncio.Future[dns.message.Message]
    ) -> None:
        self._wanted = wanted
        self._answered = answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.DatagramTransport", transport).sendto(self._wanted.to_wire())

    def datagram_received(self, data: bytes, _: tuple[Any, ...]) -> None:
        try:
            found = dns.message.from_wire(data)
        except (dns.exception.DNSException, ValueError):
            return
        if self._wanted.is_response(found) and not self._answered.done():
            self._answered.set_result(found)

    def error_received(self, exc: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(exc)
