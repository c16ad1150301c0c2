"""What a traced handshake needs, and what is said where it is missing."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.x509 import load_pem_x509_certificates

from troth.agent import netns
from troth.connect.attempt import ClientPod
from troth.connect.report import Credentials
from troth.connect.tracing import Identities, client_credentials, trace
from troth.errors import PeerError
from troth.handshake.record import Verdict
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.svid import X509Svid
from troth.mesh.model import Endpoint, Namespace, Pod
from troth.mesh.ports import TUNNEL_PORT
from troth.mesh.target import Target
from troth.mesh.world import World
from troth.traffic.ledger import Connections

if TYPE_CHECKING:
    from tests.conftest import InNode

    from troth.connect.report import Trace

NOW = datetime.now(UTC)
MESH = TrustDomain("cluster.local")
WEB = SpiffeId.for_service_account(MESH, "finance", "web")
VAULT = SpiffeId.for_service_account(MESH, "finance", "vault")
HERE = "127.0.0.1"  # client and server share a network namespace


def _pod(name: str, *, captured: bool) -> Pod:
    return Pod(
        uid=name,
        namespace="finance",
        name=name,
        service_account=name,
        addresses=(HERE,),
        captured=captured,
        ready=True,
    )


def _world(*, captured: bool = True) -> World:
    return World(
        trust_domain=MESH,
        namespaces={"finance": Namespace(name="finance", labels={"troth.dev/mesh": "enabled"})},
        pods={"payments": _pod("payments", captured=captured)},
    )


def _identities() -> Identities:
    authority = CertificateAuthority.self_signed(MESH, now=NOW)
    return Identities(current={}, roots=authority.trust_bundle, authority=authority)


async def _trace(
    world: World,
    *,
    endpoints: bool = True,
    credentials: Credentials = Credentials.NONE,
    claimed: SpiffeId | None = None,
    identities: Identities | None = None,
    path: Path = Path("/nowhere"),
) -> Trace:
    target = Target(address=HERE, port=8080, endpoints=(Endpoint(HERE, 8080),) if endpoints else ())
    return await trace(
        world,
        ClientPod(pod=_pod("web", captured=True), netns=path),
        target,
        credentials=credentials,
        claimed=claimed,
        identities=identities or _identities(),
        connections=Connections(),
        payload=b"",
        timeout=5.0,
    )


async def test_without_an_endpoint_there_is_no_handshake() -> None:
    with pytest.raises(PeerError, match=r"no ready pod is behind 127\.0\.0\.1:8080"):
        await _trace(_world(), endpoints=False)


async def test_without_a_tunnel_there_is_no_handshake_and_the_reason_is_told() -> None:
    with pytest.raises(PeerError, match="there is no tunnel: finance/payments is not captured yet"):
        await _trace(_world(captured=False))


async def test_without_a_certificate_of_its_own_a_pod_cannot_show_it() -> None:
    with pytest.raises(PeerError, match=f"no captured pod has the identity {WEB}"):
        await _trace(_world(), credentials=Credentials.OWN)


async def test_no_pod_can_show_another_ones_real_certificate() -> None:
    identities = _identities()
    assert identities.authority is not None
    key = new_key()
    issued = identities.authority.sign(build_csr(key, VAULT), now=NOW, lifetime=timedelta(hours=1))
    svid = X509Svid.assemble(key, issued.chain, identities.roots, now=NOW)
    with pytest.raises(PeerError, match=f"no captured pod has the identity {WEB}"):
        await _trace(
            _world(),
            credentials=Credentials.OWN,
            claimed=VAULT,
            identities=identities._replace(current={VAULT: svid}),
        )


def test_a_tunnel_port_that_is_closed_is_told(in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(meet_a_closed_port, tmp_path)


async def meet_a_closed_port(directory: Path) -> None:
    pod = directory / "pod"
    netns.create(pod)
    with pytest.raises(PeerError, match="finance/payments: does not take connections") as caught:
        await _trace(_world(), path=pod)
    assert "Connection refused" in caught.value.reason
    assert "whether Envoy runs" in caught.value.remedy
    netns.remove(pod)


def test_something_else_than_tls_at_the_tunnel_port_is_told(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(meet_something_else, tmp_path)


async def meet_something_else(directory: Path) -> None:
    pod = directory / "pod"
    netns.create(pod)
    loop = asyncio.get_running_loop()
    with netns.socket_in(pod, socket.AF_INET) as listener:
        listener.setblocking(False)
        listener.bind((HERE, TUNNEL_PORT))
        listener.listen()

        async def greet() -> None:
            client, _ = await loop.sock_accept(listener)
            with client:
                await loop.sock_sendall(client, b"SSH-2.0-x\r\n")
                await loop.sock_recv(client, 65536)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(greet())
            seen = await _trace(_world(), path=pod)
    assert seen.report.verdict is Verdict.REFUSED
    assert seen.report.reason == "what the server says is not TLS"
    assert seen.event is None
    assert seen.claimed is None
    netns.remove(pod)


@pytest.mark.parametrize("kind", [Credentials.EXPIRED, Credentials.FOREIGN_CA])
def test_a_forged_certificate_claims_the_identity(kind: Credentials) -> None:
    identities = _identities()
    forged = client_credentials(kind, identities, own=WEB, claimed=VAULT, now=NOW)
    assert forged is not None
    (leaf, *_) = forged.facts
    assert leaf.spiffe_id == str(VAULT)
    assert (leaf.not_after < NOW) is (kind is Credentials.EXPIRED)
    (root,) = load_pem_x509_certificates(identities.roots.pem)
    try:
        forged.chain[0].verify_directly_issued_by(root)
        vouched = True
    except (ValueError, InvalidSignature):
        vouched = False
    assert vouched is (kind is Credentials.EXPIRED)


def test_who_has_no_authority_can_show_no_expired_certificate() -> None:
    identities = _identities()._replace(authority=None)
    with pytest.raises(PeerError, match="no node agent has the authority's key"):
        client_credentials(Credentials.EXPIRED, identities, own=WEB, now=NOW)
    assert client_credentials(Credentials.FOREIGN_CA, identities, own=WEB, now=NOW)
