"""Traces over real sockets: against Envoy, and against servers that behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from troth.handshake.certificates import ClientCredentials
from troth.handshake.connect import trace_connection
from troth.handshake.record import Kind, TlsRole, Verdict
from troth.handshake.steps import CertificateStatus, ConnectionStatus
from troth.identity.bundle import TrustBundle
from troth.identity.keys import load_signing_key
from troth.identity.svid import X509Svid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.handshake.conftest import Owner, Ports, World

    from troth.handshake.steps import TraceReport
    from troth.identity.spiffe import SpiffeId


async def trace(
    world: World,
    port: int,
    client: Owner | None,
    *,
    expected: SpiffeId | None = None,
    payload: bytes = b"",
    timeout: float = 20,  # noqa: ASYNC109 - it is the tested function's
) -> TraceReport:
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return await trace_connection(
            sock,
            server_name="8080",
            client=client.credentials if client else None,
            bundle=world.bundle,
            expected=expected or world.payments_id,
            timeout=timeout,
            payload=payload,
        )


@contextlib.asynccontextmanager
async def serving(handle: Callable[[socket.socket], Awaitable[None]]) -> AsyncIterator[int]:
    """A server on loopback that does ``handle`` with its only connection, then closes it."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        async def serve() -> None:
            sock, _ = await loop.sock_accept(listener)
            with sock:
                await handle(sock)

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(serve())
            yield listener.getsockname()[1]
            task.cancel()


@pytest.mark.parametrize("listener", ["ticketing", "ticketless"])
async def test_envoy_accepts_a_client_of_the_mesh_and_data_flows(
    world: World, envoy: Ports, listener: str
) -> None:
    report = await trace(world, getattr(envoy, listener), world.web, payload=b"hello")

    handshake = report.handshake
    assert report.verdict is Verdict.ACCEPTED
    assert handshake.mutual
    assert (handshake.sent, handshake.received, handshake.reply) == (5, 5, "hello")
    assert (handshake.version, handshake.group) == ("TLS 1.3", "X25519MLKEM768")
    assert handshake.alpn == "troth"
    kinds = [event.kind for event in handshake.events if event.actor is TlsRole.SERVER]
    assert kinds[:6] == [
        Kind.SERVER_HELLO,
        Kind.ENCRYPTED_EXTENSIONS,
        Kind.CERTIFICATE_REQUEST,
        Kind.CERTIFICATE,
        Kind.CERTIFICATE_VERIFY,
        Kind.FINISHED,
    ]
    assert (Kind.NEW_SESSION_TICKET in kinds) == (listener == "ticketing")
    assert Kind.UNREADABLE not in kinds
    assert handshake.events[-1].kind is Kind.CLOSE_NOTIFY


async def test_an_envoy_that_is_not_asked_by_data_leaves_it_undecided(
    world: World, envoy: Ports
) -> None:
    report = await trace(world, envoy.ticketing, world.web, timeout=2.0)

    assert report.verdict is Verdict.UNDECIDED
    assert report.tracker[-1].client_certificate is CertificateStatus.SENT


@pytest.mark.parametrize("listener", ["ticketing", "ticketless"])
@pytest.mark.parametrize(
    ("client", "alert"),
    [
        pytest.param(None, "certificate_required (116)", id="none"),
        pytest.param("expired_web", "certificate_expired (45)", id="expired"),
        pytest.param("foreign_web", "unknown_ca (48)", id="foreign authority"),
    ],
)
async def test_envoy_refuses_a_client_that_is_not_of_the_mesh_by_an_alert(
    world: World, envoy: Ports, listener: str, client: str | None, alert: str
) -> None:
    owner = getattr(world, client) if client else None
    report = await trace(world, getattr(envoy, listener), owner, payload=b"hello")

    assert report.verdict is Verdict.REFUSED
    assert report.reason == f"the server refused the client's certificate: {alert}"
    assert report.stopped_at == "server: check the client's certificate"
    assert report.handshake.received == 0


async def test_an_envoy_of_another_identity_is_refused_before_the_client_shows_its_certificate(
    world: World, envoy: Ports
) -> None:
    report = await trace(world, envoy.ticketing, world.web, expected=world.web_id)

    assert report.verdict is Verdict.REFUSED
    assert report.stopped_at == "client: check chain, dates and SPIFFE ID"
    assert report.tracker[-1].client_certificate is CertificateStatus.REQUESTED
    assert report.tracker[-1].connection is ConnectionStatus.REFUSED


async def test_a_workloads_svid_is_accepted_as_credentials(world: World, envoy: Ports) -> None:
    svid = X509Svid.assemble(
        load_signing_key(world.web.key, subject="web", path=""),
        world.web.chain,
        TrustBundle.parse(world.web_id.trust_domain, world.bundle),
        now=world.now,
    )
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", envoy.ticketing))
        report = await trace_connection(
            sock,
            server_name="8080",
            client=ClientCredentials.from_svid(svid),
            bundle=svid.bundle.pem,
            expected=None,
            timeout=20,
            payload=b"hello",
        )
    assert report.verdict is Verdict.ACCEPTED


async def test_a_server_without_tls_is_refused(world: World) -> None:
    async def speak_http(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_recv(sock, 65536)
        await loop.sock_sendall(sock, b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(speak_http) as port:
        report = await trace(world, port, world.web)

    assert report.verdict is Verdict.REFUSED
    assert report.reason == "what the server says is not TLS"


async def test_a_server_that_closes_after_the_client_hello_is_refused(world: World) -> None:
    async def read_and_close(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_recv(sock, 65536)

    async with serving(read_and_close) as port:
        report = await trace(world, port, world.web)

    assert report.verdict is Verdict.REFUSED
    assert report.stopped_at == "server: close the connection"


async def test_a_server_that_resets_the_connection_is_refused(world: World) -> None:
    async def reset(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_recv(sock, 1)  # the rest stays unread

    async with serving(reset) as port:
        report = await trace(world, port, world.web)

    assert report.verdict is Verdict.REFUSED
    assert report.stopped_at == "server: reset the connection"


async def test_a_silent_server_leaves_it_undecided(world: World) -> None:
    async def wait(sock: socket.socket) -> None:
        await asyncio.Event().wait()
        sock.close()

    async with serving(wait) as port:
        report = await trace(world, port, world.web, timeout=1.0)

    assert report.verdict is Verdict.UNDECIDED
    assert report.stopped_at == "server: do not answer"
