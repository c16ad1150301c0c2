"""A valid certificate of the mesh is not enough for a server: it must be the expected one's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from troth.agent import netns
from troth.agent.agent import NodeAgent
from troth.agent.certificates import Signed
from troth.agent.proxy import NodePaths
from troth.identity.authority import CertificateAuthority
from troth.identity.spiffe import TrustDomain
from troth.local.network import Network
from troth.mesh.model import ContainerPort, Pod
from troth.mesh.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import InNode

    from troth.identity.bundle import TrustBundle
    from troth.identity.rotation import SigningRequest
    from troth.traffic.connection import Connection

TRUST_DOMAIN = TrustDomain.parse("cluster.local")
INTRUDER = "spiffe://cluster.local/ns/finance/sa/intruder"


class AuthoritySigner:
    def __init__(self) -> None:
        self._authority = CertificateAuthority.self_signed(TRUST_DOMAIN, now=datetime.now(UTC))

    @property
    def bundle(self) -> TrustBundle:
        return self._authority.trust_bundle

    async def sign(self, request: SigningRequest) -> Signed:
        issued = self._authority.sign(request.csr, now=datetime.now(UTC))
        return Signed(issued.chain, self.bundle)


def listener_in(path: Path) -> socket.socket:
    return netns.call_in(path, lambda: socket.create_server(("0.0.0.0", 8080)))


def connect_from(path: Path, address: str) -> bytes:
    """What a server at port 8080 says first; raises as sockets do."""

    def connect() -> bytes:
        with socket.create_connection((address, 8080), timeout=10) as connection:
            return connection.recv(100)

    return netns.call_in(path, connect)


async def impostor(directory: Path, expected_account: str) -> None:
    """A new pod has the address that others still know as pod payments'."""
    uids = ("client", "impostor")
    paths = {uid: directory / uid for uid in uids}
    network = Network()
    await network.start()
    for path in paths.values():
        netns.create(path)
    addresses = {uid: await network.add_pod(uid, path) for uid, path in paths.items()}

    def pod(uid: str, account: str, *, captured: bool, address_of: str) -> Pod:
        return Pod(
            uid=uid,
            namespace="finance",
            name=uid,
            service_account=account,
            addresses=addresses[address_of],
            ports=(ContainerPort(number=8080),),
            captured=captured,
        )

    world = World(
        trust_domain=TRUST_DOMAIN,
        pods={
            "client": pod("client", "web", captured=True, address_of="client"),
            "impostor": pod("impostor", "intruder", captured=False, address_of="impostor"),
            "payments": pod("payments", expected_account, captured=True, address_of="impostor"),
        },
    )
    agent = NodeAgent(
        node_name="node",
        paths=NodePaths(
            ads=directory / "ads",
            admin=directory / "admin",
            worker=directory / "worker",
            bootstrap=directory / "bootstrap",
            access_log=directory / "log",
            journal=directory / "events",
        ),
        signer=AuthoritySigner(),
        service_ranges=(),
        on_change=lambda: None,
    )
    came = []

    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        writer.write(b"I am payments")
        writer.close()

    running = asyncio.create_task(agent.run())
    server = await asyncio.start_server(greet, sock=listener_in(paths["impostor"]))
    try:
        agent.update(world, paths)
        await agent.enforced()
        assert agent.captured == set(uids)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.to_thread(
                connect_from, paths["client"], addresses["impostor"][0]
            )
        connection = await first_connection(agent)
        if expected_account == "intruder":
            assert answer == b"I am payments"
            assert connection.outcome == "accepted"
        else:
            assert answer == b""
            assert came == []
            assert (connection.outcome, connection.reason) == ("refused", "wrong_server_identity")
            assert connection.side == "client"
            assert (connection.peer, connection.claimed_peer) == (None, INTRUDER)
    finally:
        server.close()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def first_connection(agent: NodeAgent) -> Connection:
    """The client side's or, when that was content, the server side's report."""
    with agent.connections.following() as new:
        for connection in agent.connections:
            if connection.outcome == "accepted" or connection.side == "client":
                return connection
        async with asyncio.timeout(10):
            async for connection in new:
                if connection.outcome == "accepted" or connection.side == "client":
                    return connection
    raise AssertionError


@pytest.mark.parametrize(
    "expected_account",
    [
        pytest.param("payments", id="another identity is refused"),
        pytest.param("intruder", id="the expected one is accepted"),
    ],
)
def test_who_took_over_an_address_is_not_taken_for_its_former_owner(
    expected_account: str, in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(impostor, tmp_path, expected_account)
