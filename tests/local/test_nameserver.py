"""The mesh's name server and the host's, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, cast

import dns.flags
import dns.message
import dns.rcode

from troth.local.names import names_of
from troth.local.nameserver import NameServer
from troth.local.plan import Resolution
from troth.mesh.model import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE, UPSTREAM = "127.0.0.2", "127.0.0.3"
WEB = "web.shop.svc.cluster.local."
OUTSIDE = "alias.shop.svc.cluster.local."
NAMES = names_of(
    Resolution(
        services={"shop/web": Service(namespace="shop", name="web", cluster_ips=("10.96.0.9",))},
        aliases={"shop/alias": "db.example"},
    ),
    (),
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HERE, 0))
        return int(found.getsockname()[1])


@contextlib.asynccontextmanager
async def serving(*upstreams: str, port: int = 0) -> AsyncIterator[int]:
    port = port or free_port()
    server = NameServer([HERE], lambda: upstreams, port=port)
    server.names = NAMES
    async with server.serving():
        yield port


class _Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _: object) -> None:
        self.answer.set_result(data)


async def ask(port: int, name: str) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_datagram_endpoint(_Client, remote_addr=(HERE, port))
    try:
        transport.sendto(dns.message.make_query(name, "A").to_wire())
        return dns.message.from_wire(await asyncio.wait_for(client.answer, 20))
    finally:
        transport.close()


async def ask_by_tcp(port: int, *names: str) -> list[dns.message.Message]:
    reader, writer = await asyncio.open_connection(HERE, port)
    try:
        found = []
        for name in names:
            wire = dns.message.make_query(name, "A").to_wire()
            writer.write(len(wire).to_bytes(2) + wire)
            length = int.from_bytes(await reader.readexactly(2))
            found.append(dns.message.from_wire(await reader.readexactly(length)))
        return found
    finally:
        writer.close()
        await writer.wait_closed()


class _Upstream(asyncio.DatagramProtocol):
    """The host's: everything is 192.0.2.9; says so by TCP alone if ``cut``, and forges first."""

    def __init__(self, *, cut: bool = False) -> None:
        self._cut = cut

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        forged = answer(data, "192.0.2.66")
        self._transport.sendto(bytes((forged[0] ^ 1,)) + forged[1:], addr)
        if self._cut:
            query = dns.message.from_wire(data)
            short = dns.message.make_response(query)
            short.flags |= dns.flags.TC
            self._transport.sendto(short.to_wire(), addr)
        else:
            self._transport.sendto(answer(data, "192.0.2.9"), addr)


def answer(wire: bytes, address: str) -> bytes:
    query = dns.message.from_wire(wire)
    message = dns.message.make_response(query)
    name = query.question[0].name
    message.answer.append(dns.rrset.from_text(name, 60, "IN", "A", address))
    return message.to_wire()


@contextlib.asynccontextmanager
async def upstream(port: int, *, cut: bool = False) -> AsyncIterator[None]:
    async def by_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = answer(
            await reader.readexactly(int.from_bytes(await reader.readexactly(2))), "192.0.2.10"
        )
        writer.write(len(wire).to_bytes(2) + wire)
        writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Upstream(cut=cut), local_addr=(UPSTREAM, port)
    )
    server = await asyncio.start_server(by_tcp, UPSTREAM, port)
    try:
        yield
    finally:
        transport.close()
        server.close()


def addresses(message: dns.message.Message) -> list[str]:
    return [item.to_text() for rrset in message.answer for item in rrset]


async def test_names_of_the_mesh_are_answered_by_udp_and_tcp() -> None:
    async with serving() as port:
        assert addresses(await ask(port, WEB)) == ["10.96.0.9"]
        first, second = await ask_by_tcp(port, WEB, WEB)
        assert addresses(first) == addresses(second) == ["10.96.0.9"]


async def test_without_a_way_out_other_names_do_not_exist() -> None:
    async with serving() as port:
        assert (await ask(port, "db.example.")).rcode() == dns.rcode.NXDOMAIN
        assert (await ask(port, OUTSIDE)).rcode() == dns.rcode.NXDOMAIN


async def test_the_hosts_name_server_answers_for_other_names_and_no_forger() -> None:
    port = free_port()
    async with upstream(port), serving(UPSTREAM, port=port):
        assert addresses(await ask(port, "db.example.")) == ["192.0.2.9"]
        assert addresses(await ask(port, OUTSIDE)) == ["db.example.", "192.0.2.9"]
        (by_tcp,) = await ask_by_tcp(port, OUTSIDE)
        assert addresses(by_tcp) == ["db.example.", "192.0.2.9"]


async def test_an_answer_that_was_cut_is_asked_for_again_by_tcp() -> None:
    port = free_port()
    async with upstream(port, cut=True), serving(UPSTREAM, port=port):
        assert addresses(await ask(port, "db.example.")) == ["192.0.2.10"]


async def test_the_next_name_server_is_asked_when_one_is_gone_and_failure_is_said() -> None:
    port = free_port()
    async with upstream(port), serving("127.0.0.4", UPSTREAM, port=port):
        assert addresses(await ask(port, "db.example.")) == ["192.0.2.9"]
    async with serving("127.0.0.4") as port:
        failed = await ask(port, OUTSIDE)
        assert failed.rcode() == dns.rcode.SERVFAIL


async def test_no_client_has_more_connections_than_its_share() -> None:
    async with serving() as port:
        held = [await asyncio.open_connection(HERE, port) for _ in range(32)]
        try:
            # Once the last of them is being served, another one is closed at once.
            await asyncio.gather(*(_answered(*each) for each in held))
            reader, writer = await asyncio.open_connection(HERE, port)
            assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
            assert addresses(await ask(port, WEB)) == ["10.96.0.9"]
        finally:
            for _, writer in held:
                writer.close()


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    wire = dns.message.make_query(WEB, "A").to_wire()
    writer.write(len(wire).to_bytes(2) + wire)
    await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
