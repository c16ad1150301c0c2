"""Who can't prove to be of the mesh is refused, and the event says why."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.e2e.client import Certificate
from tests.e2e.harness import PYTHON, Host, Mesh
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import FILE, Events, apply, wait_serving

from troth.identity.authority import CertificateAuthority, build_leaf
from troth.identity.csr import build_csr
from troth.identity.keys import PrivateKeyPem, new_key
from troth.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.client import Client

pytestmark = pytest.mark.e2e

TRUST_DOMAIN = TrustDomain.parse("cluster.local")
WEB = "spiffe://cluster.local/ns/finance/sa/web"
TUNNEL = 15007

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        namespace("legacy", mesh=False),
        *server("finance/web"),
        *server("finance/payments", "http:8080"),
        *server("finance/vault", "http:8080"),
        *server("legacy/cron"),
        *server("legacy/bystander", "http:8080"),
        service("finance/payments", 8080),
    ]
)


class Pki:
    """The mesh's authority, and files of certificates that it or another has signed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._now = datetime.now(UTC)
        self.authority = CertificateAuthority.self_signed(TRUST_DOMAIN, now=self._now)
        self.certificate = self._write("ca.pem", self.authority.certificate_pem)
        self.key = self._write("ca.key", self.authority.private_key.reveal())
        self._files: dict[str, Certificate] = {}
        for name, authority, born in (
            ("web", self.authority, self._now),
            ("foreign", CertificateAuthority.self_signed(TRUST_DOMAIN, now=self._now), self._now),
            ("expired", self.authority, self._now - timedelta(hours=2)),
            ("early", self.authority, self._now + timedelta(hours=2)),
        ):
            self._issue(name, authority, born)
        self._issue_for_another_trust_domain()

    def __getitem__(self, name: str) -> Certificate:
        return self._files[name]

    def _issue(self, name: str, authority: CertificateAuthority, born: datetime) -> None:
        key = new_key()
        issued = authority.sign(
            build_csr(key, SpiffeId.parse(WEB)), now=born, lifetime=timedelta(hours=1)
        )
        self._save(name, issued.chain, PrivateKeyPem(key))

    def _issue_for_another_trust_domain(self) -> None:
        # An authority of the mesh would never sign this; one that was broken into might.
        key = new_key()
        issuer = self.authority._issuer
        leaf = build_leaf(
            issuer.certificate,
            issuer.key,
            public_key=key.public_key(),
            spiffe_id=SpiffeId.parse("spiffe://evil.example/ns/finance/sa/web"),
            now=self._now,
            not_after=self._now + timedelta(hours=1),
        )
        self._save("other domain", leaf.public_bytes(Encoding.PEM), PrivateKeyPem(key))

    def _save(self, name: str, chain: bytes, key: PrivateKeyPem) -> None:
        self._files[name] = Certificate(
            self._write(f"{name}.pem", chain), self._write(f"{name}.key", key.reveal())
        )

    def _write(self, name: str, content: bytes) -> str:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return str(path)


@pytest.fixture(scope="module")
def pki() -> Iterator[Pki]:
    directory = Path(tempfile.mkdtemp(prefix="troth-pki-"))
    yield Pki(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def mesh(shared_host: Host, pki: Pki) -> Iterator[Mesh]:
    options = ("--ca-cert", pki.certificate, "--ca-key", pki.key)
    manifests = {"mesh.yaml": MANIFESTS, FILE: document([policy("finance/default", "STRICT")])}
    with Mesh(shared_host, manifests, options=options) as running:
        wait_serving(running)
        yield running


@pytest.fixture(scope="module")
def address(mesh: Mesh) -> str:
    """Of the pod that is attacked."""
    own: str = mesh.pod("finance/payments")["addresses"][0]
    return own


def test_a_certificate_of_the_mesh_is_accepted_by_the_tunnel(
    mesh: Mesh, cron: Client, address: str, pki: Pki
) -> None:
    events = Events(mesh)
    reply = cron.tls(address, TUNNEL, name="8080", certificate=pki["web"], alpn=["troth"])
    assert reply.body == "payments 8080 /"
    event = events.one(source="legacy/cron", source_port=reply.port)
    assert (event["outcome"], event["peer"], event["port"]) == ("accepted", WEB, 8080)


@pytest.mark.parametrize(
    ("certificate", "refusal"),
    [
        pytest.param(None, ("no_client_certificate", None), id="none"),
        pytest.param("foreign", ("unknown_authority", WEB), id="another CA"),
        pytest.param("expired", ("certificate_expired", WEB), id="expired"),
        pytest.param("early", ("certificate_not_yet_valid", WEB), id="not yet valid"),
        pytest.param(
            "other domain",
            ("wrong_client_identity", "spiffe://evil.example/ns/finance/sa/web"),
            id="another trust domain",
        ),
    ],
)
def test_a_client_without_a_good_certificate_is_refused(
    certificate: str | None,
    refusal: tuple[str, str | None],
    mesh: Mesh,
    cron: Client,
    pki: Pki,
) -> None:
    events = Events(mesh)
    address = mesh.pod("finance/payments")["addresses"][0]
    shown = pki[certificate] if certificate else None
    reply = cron.tls(address, TUNNEL, name="8080", certificate=shown, alpn=["troth"])
    assert reply.cut, reply
    event = events.one(source="legacy/cron", source_port=reply.port)
    assert (event["outcome"], event["peer"]) == ("refused", None)
    assert (event["reason"], event["claimed_peer"]) == refusal


SERVER_NAMES = [
    pytest.param(None, id="none"),
    pytest.param("0", id="zero"),
    pytest.param("65536", id="beyond the last port"),
    pytest.param("08080", id="leading zero"),
    pytest.param("8080.evil", id="more than a port"),
    pytest.param("x8080", id="something before"),
    pytest.param("{bystander}:8080", id="another pod"),
    pytest.param("127.0.0.1:8080", id="loopback"),
    pytest.param("8080:8080", id="two ports"),
    pytest.param("payments.finance", id="a host name"),
    pytest.param("15001", id="outbound capture"),
    pytest.param("15006", id="inbound capture"),
    pytest.param("15007", id="the tunnel itself"),
]


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_a_server_name_that_is_no_port_of_the_pods_is_refused_and_nothing_dialled(
    name: str | None, mesh: Mesh, cron: Client, pki: Pki
) -> None:
    addresses = {pod["name"]: pod["addresses"][0] for pod in mesh.status()["pods"]}
    if name:
        name = name.format(**addresses)
    events = Events(mesh)
    vault = addresses["vault"]
    reply = cron.tls(vault, TUNNEL, name=name, certificate=pki["web"], alpn=["troth"])
    assert reply.cut, reply
    event = events.one(source="legacy/cron", source_port=reply.port)
    assert (event["outcome"], event["reason"]) == ("refused", "bad_server_name")
    assert f"connection from {addresses['cron']} " not in mesh.troth("logs", "finance/vault").stdout
    assert f"connection from {vault} " not in mesh.troth("logs", "legacy/bystander").stdout


def test_what_a_tunnel_dials_is_seen_in_the_pods_log(mesh: Mesh, web: Client) -> None:
    # So that the test above can be believed.
    assert web.get("payments", 8080).body == "payments 8080 /"
    log = mesh.troth("logs", "finance/payments").stdout
    assert any(f"connection from {each} " in log for each in mesh.pod("finance/web")["addresses"])


def test_who_stops_amid_the_handshake_does_not_hold_its_connection_for_ever(
    mesh: Mesh, address: str
) -> None:
    events = Events(mesh)
    result = mesh.exec("legacy/cron", PYTHON, "-c", _STALL, address, str(TUNNEL))
    assert result.returncode == 0, result.stderr
    event = events.one(source="legacy/cron", source_port=int(result.stdout))
    assert (event["outcome"], event["reason"]) == ("refused", "no_handshake")


_STALL = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(received, sent, server_hostname="8080")
try:
    tls.do_handshake()
except ssl.SSLWantReadError:
    pass
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
connection.sendall(sent.read())
while connection.recv(65536):
    pass
print(connection.getsockname()[1])
"""


def test_plaintext_to_the_tunnel_is_refused(mesh: Mesh, cron: Client, address: str) -> None:
    events = Events(mesh)
    reply = cron.get(address, TUNNEL)
    assert reply.cut, reply
    event = events.one(source="legacy/cron", source_port=reply.port)
    assert event["outcome"] == "refused"


def test_an_apps_own_tls_is_plaintext_to_strict_and_refused(
    mesh: Mesh, cron: Client, address: str, pki: Pki
) -> None:
    events = Events(mesh)
    reply = cron.tls(address, 8080, name="8080", certificate=pki["web"], alpn=["troth"])
    assert reply.cut, reply
    event = events.one(source="legacy/cron", source_port=reply.port)
    assert (event["outcome"], event["reason"]) == ("refused", "plaintext_to_strict")


@pytest.mark.parametrize("port", [15001, 15006])
def test_the_capture_ports_are_closed_to_the_network(port: int, cron: Client, address: str) -> None:
    assert cron.get(address, port, seconds=0.5).body is None


@pytest.mark.parametrize("mode", ["STRICT", "PERMISSIVE", "DISABLE"])
def test_an_app_that_calls_the_capture_ports_itself_is_refused_and_does_not_loop(
    mode: str, mesh: Mesh, web: Client
) -> None:
    apply(mesh, policy("finance/default", mode), modes={"finance/web": mode})
    before = envoy(mesh)
    for host in ("127.0.0.1", "::1", *mesh.pod("finance/web")["addresses"]):
        for port in (15001, 15006):
            reply = web.get(host, port)
            assert reply.cut, (host, port, reply)
    after = envoy(mesh)
    assert after[0] == before[0], "Envoy was restarted"
    assert after[1] - before[1] < 100, "Envoy went on working"
    assert web.get("payments", 8080).body == "payments 8080 /"


def envoy(mesh: Mesh) -> tuple[str, int]:
    """The mesh's Envoy: its PID, and its CPU time in hundredths of a second."""
    pid = mesh.on_node("pidof", "envoy").stdout.strip()
    fields = mesh.on_node("cat", f"/proc/{pid}/stat").stdout.rpartition(")")[2].split()
    return pid, int(fields[11]) + int(fields[12])
