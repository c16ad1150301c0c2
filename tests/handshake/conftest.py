"""Identities, servers in memory and a real Envoy shaped like a pod's tunnel listener."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from troth.handshake.certificates import ClientCredentials
from troth.handshake.engine import _NO_AUTO_CHAIN
from troth.handshake.handshake import HandshakeTrace
from troth.handshake.record import TlsRole
from troth.handshake.steps import TraceReport, build_report
from troth.handshake.wire import (
    ContentType,
    HandshakeType,
    RecordSplitter,
    Secrets,
    WireTap,
    _Direction,
)
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import PrivateKeyPem, new_key
from troth.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric import ec

_AES_256 = 0x1302
MESH = TrustDomain("cluster.local")


class Owner(NamedTuple):
    """A certificate chain and its key, PEM both."""

    chain: bytes
    key: bytes

    @property
    def credentials(self) -> ClientCredentials:
        return ClientCredentials(chain=self.chain, key=self.key)


class World:
    """A mesh's authority, another one of the same name, and whoever they vouch for."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)
        long_ago = self.now - timedelta(days=30)
        self.authority = CertificateAuthority.self_signed(MESH, long_ago)
        self.foreign_authority = CertificateAuthority.self_signed(MESH, long_ago)
        self.bundle = self.authority.trust_bundle.pem
        self.web_id = SpiffeId.for_service_account(MESH, "finance", "web")
        self.payments_id = SpiffeId.for_service_account(MESH, "finance", "payments")
        self.web = self.issue(self.web_id)
        self.expired_web = self.issue(self.web_id, age=timedelta(days=2))
        self.foreign_web = self.issue(self.web_id, authority=self.foreign_authority)
        self.payments = self.issue(self.payments_id)
        self.expired_payments = self.issue(self.payments_id, age=timedelta(days=2))
        self.foreign_payments = self.issue(self.payments_id, authority=self.foreign_authority)

    def issue(
        self,
        spiffe_id: SpiffeId,
        *,
        authority: CertificateAuthority | None = None,
        age: timedelta = timedelta(0),
    ) -> Owner:
        key = new_key()
        issued = (authority or self.authority).sign(
            build_csr(key, spiffe_id), now=self.now - age, lifetime=timedelta(hours=12)
        )
        return Owner(issued.chain, PrivateKeyPem(key).reveal())

    def trace(
        self, client: Owner | None = None, expected: SpiffeId | None = None
    ) -> HandshakeTrace:
        return HandshakeTrace(
            server_name="8080",
            credentials=client.credentials if client else None,
            bundle=self.bundle,
            expected=expected or self.payments_id,
            now=self.now,
        )


class MemoryServer:
    """A TLS server over bytes, as strict as a pod's tunnel listener unless told otherwise."""

    def __init__(
        self,
        owner: Owner,
        bundle: bytes,
        *,
        version: int = SSL.TLS1_3_VERSION,
        asks: bool = True,
        insists: bool = True,
        curve: ec.EllipticCurve | None = None,
        suite: bytes = b"TLS_AES_256_GCM_SHA384",
    ) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(version)
        context.set_mode(_NO_AUTO_CHAIN)
        context.set_tls13_ciphersuites(suite)
        leaf, *_ = x509.load_pem_x509_certificates(owner.chain)
        context.use_certificate(leaf)
        key: Any = load_pem_private_key(owner.key, None)
        context.use_privatekey(key)
        store = context.get_cert_store()
        assert store is not None
        for certificate in x509.load_pem_x509_certificates(bundle):
            store.add_cert(crypto.X509.from_cryptography(certificate))
        if curve:
            context.set_tmp_ecdh(curve)
        if asks:
            mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if insists else 0)
            context.set_verify(mode, lambda *arguments: bool(arguments[-1]))
        context.set_alpn_select_callback(lambda _, offered: offered[0])
        context.set_session_id(b"trace")
        self._secrets = Secrets()
        context.set_keylog_callback(lambda _, line: self._secrets.add(line))
        self._connection = SSL.Connection(context, None)
        self._connection.set_accept_state()
        self.heard = b""

    def receive(self, data: bytes) -> bytes:
        if data:
            self._connection.bio_write(data)
        with contextlib.suppress(SSL.Error):
            self._connection.do_handshake()
            self.heard += self._connection.recv(65536)
        return self._output()

    def send(self, data: bytes) -> bytes:
        self._connection.sendall(data)
        return self._output()

    def seal(
        self,
        content: ContentType,
        data: bytes,
        *,
        number: int,
        application: bool = True,
        updated: bool = False,
    ) -> bytes:
        """The server's record of that number, made by hand: OpenSSL wouldn't send it.

        With ``updated`` it is under the keys that follow a KeyUpdate.
        """
        suite = _Direction.suites[_AES_256]
        secret = self._secrets.get(TlsRole.SERVER, application=application)
        assert secret is not None
        if updated:
            secret = suite.expand(secret, b"traffic upd", 48)
        iv = int.from_bytes(suite.expand(secret, b"iv", 12), "big")
        inner = data + bytes([content]) + b"\0" * 7  # padded, as section 5.4 allows
        header = bytes([ContentType.APPLICATION_DATA, 3, 3]) + (len(inner) + 16).to_bytes(2, "big")
        aead = suite.aead(suite.expand(secret, b"key", suite.key_size))
        return header + aead.encrypt((iv ^ number).to_bytes(12, "big"), inner, header)

    def repack(self, flight: bytes, spoil: HandshakeType | None = None) -> bytes:
        """The server's first flight with all that is encrypted in one record, as Envoy sends it.

        The message named by ``spoil`` gets another last byte, as from a server without the key.
        """
        tap, clear, messages = WireTap(self._secrets), b"", b""
        for record in RecordSplitter().feed(flight):
            units = list(tap.read(TlsRole.SERVER, record))
            if record[0] != ContentType.APPLICATION_DATA:
                clear += record
                continue
            for unit in units:
                assert unit.message is not None
                last = unit.body[-1] ^ (unit.message == spoil)
                body = unit.body[:-1] + bytes([last])
                messages += bytes([unit.message]) + len(body).to_bytes(3, "big") + body
        return clear + self.seal(ContentType.HANDSHAKE, messages, number=0, application=False)

    def goodbye(self) -> bytes:
        self._connection.shutdown()
        return self._output()

    def _output(self) -> bytes:
        out = b""
        with contextlib.suppress(SSL.WantReadError):
            while True:
                out += self._connection.bio_read(65536)
        return out


def _converse(trace: HandshakeTrace, server: MemoryServer, piece: int = 65536) -> TraceReport:
    """Let both talk until neither has more to say; time goes on 1 ms with each turn."""
    to_server, turn = trace.start(0.0), 1
    while to_server:
        to_client = server.receive(to_server)
        to_server = b"".join(
            trace.receive(to_client[at : at + piece], float(turn))
            for at in range(0, len(to_client), piece)
        )
        turn += 1
    return build_report(trace.record())


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def converse() -> Callable[..., TraceReport]:
    return _converse


@pytest.fixture(scope="session")
def serve(world: World) -> Callable[..., MemoryServer]:
    def make(owner: Owner | None = None, **settings: Any) -> MemoryServer:
        return MemoryServer(owner or world.payments, world.bundle, **settings)

    return make


class Ports(NamedTuple):
    """The listeners of an Envoy: one that issues session tickets and one that doesn't."""

    ticketing: int
    ticketless: int


@pytest.fixture(scope="session")
def envoy(world: World) -> Iterator[Ports]:
    """An Envoy that accepts the mesh's clients and passes what they say to an echoing server."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        echo = stack.enter_context(_echo_server())
        admin = folder / "admin"
        bootstrap = _bootstrap(world, admin, echo)
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("envoy"),
                *("--config-yaml", json.dumps(bootstrap)),
                *("--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
            ],
        )
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        yield _wait_for_ports(process, admin)


def _bootstrap(world: World, admin: Path, echo: int) -> dict[str, Any]:
    return {
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {
            "listeners": [
                _listener(world, "ticketing", resumption=True),
                _listener(world, "ticketless", resumption=False),
            ],
            "clusters": [
                {
                    "name": "app",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "app",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": _loopback(echo)}}]}
                        ],
                    },
                }
            ],
        },
    }


def _listener(world: World, name: str, *, resumption: bool) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions"
    tls = f"{types}.transport_sockets.tls.v3.DownstreamTlsContext"
    inspector = f"{types}.filters.listener.tls_inspector.v3.TlsInspector"
    proxy = f"{types}.filters.network.tcp_proxy.v3.TcpProxy"
    return {
        "name": name,
        "address": _loopback(0),
        "listener_filters": [{"name": "tls_inspector", "typed_config": {"@type": inspector}}],
        "filter_chains": [
            {
                "transport_socket": {
                    "name": "tls",
                    "typed_config": {
                        "@type": tls,
                        "require_client_certificate": True,
                        "disable_stateless_session_resumption": not resumption,
                        "disable_stateful_session_resumption": not resumption,
                        "common_tls_context": {
                            "alpn_protocols": ["troth"],
                            "tls_params": {
                                "tls_minimum_protocol_version": "TLSv1_3",
                                "tls_maximum_protocol_version": "TLSv1_3",
                            },
                            "tls_certificates": [
                                {
                                    "certificate_chain": _inline(world.payments.chain),
                                    "private_key": _inline(world.payments.key),
                                }
                            ],
                            "validation_context": {"trusted_ca": _inline(world.bundle)},
                        },
                    },
                },
                "filters": [
                    {
                        "name": "tcp_proxy",
                        "typed_config": {
                            "@type": proxy,
                            "stat_prefix": name,
                            "cluster": "app",
                            "upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE",
                            "max_early_data_bytes": 0,
                        },
                    }
                ],
            }
        ],
    }


def _loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _inline(pem: bytes) -> dict[str, str]:
    return {"inline_string": pem.decode("ascii")}


@contextlib.contextmanager
def _echo_server() -> Iterator[int]:
    """A server that says back what it hears; gives its port."""
    code = (
        "import socketserver, sys\n"
        "class Echo(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        while data := self.request.recv(65536):\n"
        "            self.request.sendall(data)\n"
        "server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Echo)\n"
        "print(server.server_address[1], flush=True)\n"
        "server.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


class _AdminConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def _wait_for_ports(process: subprocess.Popen[bytes], admin: Path) -> Ports:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), contextlib.closing(_AdminConnection(admin)) as asking:
            asking.request("GET", "/listeners?format=json")
            listeners = json.loads(asking.getresponse().read()).get("listener_statuses", [])
            ports = {
                listener["name"]: listener["local_address"]["socket_address"].get("port_value", 0)
                for listener in listeners
            }
            if len(ports) == len(Ports._fields) and all(ports.values()):
                return Ports(**ports)
        time.sleep(0.02)
    raise AssertionError(f"Envoy has no listeners; exit status {process.poll()}")
