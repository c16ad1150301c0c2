"""Every way a connection can end, on a real Envoy: one connection, and the events it makes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from google.protobuf import json_format

from troth.envoy.accesslog import (
    Role,
    connected_access_log,
    connected_log_options,
    failed_access_log,
)
from troth.envoy.pipe import AccessLogPipe
from troth.envoy.process import EnvoyOptions, command, find_envoy
from troth.traffic.connection import Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.envoy.conftest import Pair, Pki

    from troth.traffic.connection import Connection

pytestmark = pytest.mark.e2e

TYPE = "type.googleapis.com/envoy.extensions."
CLIENT = "spiffe://cluster.local/ns/default/sa/client"
SERVER = "spiffe://cluster.local/ns/default/sa/server"
OTHER = "spiffe://cluster.local/ns/default/sa/other"
STRANGER = "spiffe://other.example/ns/default/sa/client"
TLS_1_3 = {
    "tls_minimum_protocol_version": "TLSv1_3",
    "tls_maximum_protocol_version": "TLSv1_3",
}
ALLOWED = "127.0.0.2"  # the plaintext listener's only address with a filter chain


def as_json(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def files(pair: Pair) -> dict[str, Any]:
    return {
        "certificate_chain": {"filename": str(pair.certificate)},
        "private_key": {"filename": str(pair.key)},
    }


class Ports(msgspec.Struct):
    """Where things listen on 127.0.0.1 (what is called dead or absent does not)."""

    app: int
    dead: int
    admin: int
    tunnel: int
    plain: int
    plain_dead: int
    out: int
    out_other: int
    out_dead: int
    out_raw: int
    out_absent: int


class Mesh:
    """One Envoy that is a client's proxy and a server's at once."""

    def __init__(self, folder: Path, pki: Pki, free_port: Callable[[], int]) -> None:
        self.pki = pki
        self.ports = Ports(*(free_port() for _ in msgspec.structs.fields(Ports)))
        self.pipe = AccessLogPipe(folder / "log")
        self.bootstrap = folder / "bootstrap.json"
        self._server = files(pki.leaf(SERVER))
        self._client = files(pki.leaf(CLIENT))

    def write(self) -> None:
        p = self.ports
        listeners = [
            self._tunnel(p.tunnel),
            self._listener(Role.PLAIN_IN, p.plain, [self._proxy(Role.PLAIN_IN, "app")], ALLOWED),
            self._listener(Role.PLAIN_IN, p.plain_dead, [self._proxy(Role.PLAIN_IN, "dead")]),
            self._outbound(p.out, "tunnel", SERVER),
            self._outbound(p.out_other, "tunnel", OTHER),
            self._outbound(p.out_dead, "tunnel-dead", SERVER),
            self._outbound(p.out_raw, "tunnel-raw", SERVER),
            self._outbound(p.out_absent, "absent", SERVER),
        ]
        clusters = [
            {"name": "named-port", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"},
            self._cluster("app", p.app),
            self._cluster("dead", p.dead),
            self._cluster("tunnel", p.tunnel, tls=True),
            self._cluster("tunnel-dead", p.dead, tls=True),
            self._cluster("tunnel-raw", p.app, tls=True),
        ]
        admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p.admin}}}
        resources = {"listeners": listeners, "clusters": clusters}
        self.bootstrap.write_text(json.dumps({"admin": admin, "static_resources": resources}))

    def _listener(
        self, role: Role, port: int, filters: list[Any], only: str = "", **chain: Any
    ) -> dict[str, Any]:
        if only:
            prefix = {"address_prefix": only, "prefix_len": 32}
            chain["filter_chain_match"] = {"prefix_ranges": [prefix]}
        pod = f"uid-{role}"
        return {
            "name": f"{role}-{port}",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
            "filter_chains": [{"name": "chain", "filters": filters, **chain}],
            "access_log": [as_json(log) for log in failed_access_log(role, pod, self.pipe.path)],
        }

    def _tunnel(self, port: int) -> dict[str, Any]:
        address = "envoy.network.transport_socket.original_dst_address"
        context = {
            "@type": TYPE + "transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": TLS_1_3,
                "tls_certificates": [self._server],
                "validation_context": {
                    "trusted_ca": {"filename": str(self.pki.ca())},
                    "match_typed_subject_alt_names": [
                        {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}
                    ],
                },
            },
            "require_client_certificate": True,
        }
        proxy = self._proxy(Role.TUNNEL_IN, "named-port")
        proxy["typed_config"] |= {
            "upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE",
            "max_early_data_bytes": 0,
        }
        listener = self._listener(
            Role.TUNNEL_IN,
            port,
            [self._state({address: "127.0.0.1:%REQUESTED_SERVER_NAME%"}), proxy],
            transport_socket={"name": "tls", "typed_config": context},
        )
        inspector = {"@type": TYPE + "filters.listener.tls_inspector.v3.TlsInspector"}
        listener["listener_filters"] = [{"name": "tls", "typed_config": inspector}]
        return listener

    def _outbound(self, port: int, cluster: str, identity: str) -> dict[str, Any]:
        state = {
            "envoy.network.upstream_subject_alt_names": identity,
            "envoy.network.upstream_server_name": str(self.ports.app),
        }
        filters = [self._state(state), self._proxy(None, cluster)]
        listener = self._listener(Role.OUTBOUND, port, filters)
        shared = failed_access_log(Role.OUTBOUND, None, self.pipe.path)
        listener["access_log"] = [as_json(log) for log in shared]
        return listener

    def _state(self, values: dict[str, str]) -> dict[str, Any]:
        objects = [
            {
                "object_key": key,
                "format_string": {"text_format_source": {"inline_string": text}},
                "shared_with_upstream": "ONCE",
            }
            for key, text in values.items()
        ]
        objects.append(
            {
                "object_key": "troth.pod",
                "format_string": {"text_format_source": {"inline_string": "uid-shared"}},
                "factory_key": "envoy.string",
            }
        )
        config = {"@type": TYPE + "filters.network.set_filter_state.v3.Config"}
        return {"name": "state", "typed_config": config | {"on_new_connection": objects}}

    def _proxy(self, role: Role | None, cluster: str) -> dict[str, Any]:
        config: dict[str, Any] = {
            "@type": TYPE + "filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "t",
            "cluster": cluster,
        }
        if role is not None:
            logs = connected_access_log(role, f"uid-{role}", self.pipe.path)
            config["access_log"] = [as_json(log) for log in logs]
            config["access_log_options"] = as_json(connected_log_options())
        return {"name": "tcp", "typed_config": config}

    def _cluster(self, name: str, port: int, *, tls: bool = False) -> dict[str, Any]:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        cluster: dict[str, Any] = {
            "name": name,
            "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        }
        if tls:
            context = {
                "@type": TYPE + "transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "tls_params": TLS_1_3,  # a client's default is 1.2
                    "tls_certificates": [self._client],
                    "validation_context": {"trusted_ca": {"filename": str(self.pki.ca())}},
                },
            }
            cluster["transport_socket"] = {"name": "tls", "typed_config": context}
        return cluster

    async def plain(self, port: int, host: str = "127.0.0.1", data: bytes = b"hello\r\n") -> None:
        """Connect without TLS and read until the other side closes."""
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(data)
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()

    async def tls(self, client: Pair | None, name: str, **limits: ssl.TLSVersion) -> None:
        """Connect to the tunnel as ``client`` and read until the other side closes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.pki.ca())
        for limit, version in limits.items():
            setattr(context, limit, version)
        if client is not None:
            context.load_cert_chain(*client)
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.ports.tunnel, ssl=context, server_hostname=name
            )
            with contextlib.suppress(OSError):
                await reader.read()
            writer.close()

    async def events(self, count: int) -> list[Connection]:
        """The next ``count`` events by side, after which there must be no other.

        One more connection follows; its event must be the next one.
        """
        found = [await anext(self._reading) for _ in range(count)]
        await self.plain(self.ports.plain, ALLOWED)
        end = (await anext(self._reading)).connection
        assert (end.outcome, end.destination.address) == (Outcome.PLAINTEXT, ALLOWED)
        found.sort(key=lambda report: report.connection.side)
        self.reporters = [report.pod for report in found]
        return [report.connection for report in found]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Mesh]:
        """With the app there and the log read."""

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", self.ports.app):
            self._reading = self.pipe.reports()
            yield self


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, pki: Pki, free_port: Callable[[], int]
) -> Iterator[Mesh]:
    mesh = Mesh(tmp_path_factory.mktemp("mesh"), pki, free_port)
    mesh.write()
    options = EnvoyOptions(bootstrap=mesh.bootstrap, binary=find_envoy())
    with mesh.pipe, subprocess.Popen(command(options)) as envoy:
        while True:  # until it serves; a dead one ends the wait, too
            assert envoy.poll() is None
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", mesh.ports.out_absent)).close()
                break
        yield mesh
        envoy.terminate()


@pytest.fixture
async def mesh(running: Mesh) -> AsyncIterator[Mesh]:
    async with running.listening() as mesh:
        yield mesh


@pytest.fixture(scope="module", autouse=True)
def _first(running: Mesh) -> None:
    """Read away the event of the connection that waited for Envoy."""

    async def read() -> None:
        async with running.listening() as mesh:
            await anext(mesh._reading)

    asyncio.run(read())


async def test_a_tunnel_from_a_verified_client_is_accepted_once(mesh: Mesh) -> None:
    await mesh.tls(mesh.pki.leaf(CLIENT), str(mesh.ports.app))
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.ACCEPTED, Reason.NONE)
    assert (event.peer, event.claimed_peer) == (CLIENT, None)
    assert event.tls_version == "TLSv1.3"
    assert event.tls_cipher.startswith("TLS_AES_")
    assert event.tls_group
    assert (event.side, mesh.reporters) == (Side.SERVER, ["uid-tunnel-in"])
    assert (event.destination.address, event.destination.port) == ("127.0.0.1", mesh.ports.app)
    assert event.source.address == "127.0.0.1"
    assert event.source.port


async def test_a_client_without_certificate_is_refused(mesh: Mesh) -> None:
    await mesh.tls(None, str(mesh.ports.app))
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.REFUSED, Reason.NO_CLIENT_CERTIFICATE)
    assert (event.peer, event.claimed_peer) == (None, None)


@pytest.mark.parametrize(
    ("leaf", "reason", "words"),
    [
        ({"uri": CLIENT, "ca": "foreign"}, Reason.UNKNOWN_AUTHORITY, "local_issuer"),
        ({"uri": CLIENT, "begins": -2, "ends": -1}, Reason.CERTIFICATE_EXPIRED, "has_expired"),
        ({"uri": CLIENT, "begins": 1, "ends": 2}, Reason.CERTIFICATE_NOT_YET_VALID, "not_yet"),
        ({"uri": STRANGER}, Reason.WRONG_CLIENT_IDENTITY, "SAN_matcher"),
        (
            {"uri": "spiffe://other.example/certificate_has_expired"},
            Reason.WRONG_CLIENT_IDENTITY,
            "SAN_matcher",
        ),
    ],
    ids=["foreign CA", "expired", "not yet valid", "other trust domain", "a name that lies"],
)
async def test_a_certificate_that_fails_verification_names_a_claim_only(
    mesh: Mesh, leaf: dict[str, Any], reason: Reason, words: str
) -> None:
    await mesh.tls(mesh.pki.leaf(**leaf), str(mesh.ports.app))
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.REFUSED, reason)
    assert words in event.detail
    assert (event.peer, event.claimed_peer) == (None, leaf["uri"])


async def test_an_old_tls_version_is_refused(mesh: Mesh) -> None:
    client = mesh.pki.leaf(CLIENT)
    await mesh.tls(client, str(mesh.ports.app), maximum_version=ssl.TLSVersion.TLSv1_2)
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.REFUSED, Reason.TLS_PARAMETERS)
    assert event.tls_version == ""


@pytest.mark.parametrize("name", ["web", "99999", "-1", "80.example"])
async def test_a_server_name_that_is_no_port_is_refused(mesh: Mesh, name: str) -> None:
    await mesh.tls(mesh.pki.leaf(CLIENT), name)
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.REFUSED, Reason.BAD_SERVER_NAME)
    assert event.detail == f"server name {name!r}"
    assert event.destination.port == mesh.ports.tunnel


async def test_the_port_that_envoy_went_to_is_the_truth(mesh: Mesh) -> None:
    await mesh.tls(mesh.pki.leaf(CLIENT), f"0{mesh.ports.app}")  # Envoy reads it as a number
    (event,) = await mesh.events(1)
    assert (event.outcome, event.destination.port) == (Outcome.ACCEPTED, mesh.ports.app)


async def test_an_app_that_is_not_there_is_no_refusal(mesh: Mesh) -> None:
    await mesh.tls(mesh.pki.leaf(CLIENT), str(mesh.ports.dead))
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.FAILED, Reason.APP_UNREACHABLE)
    assert event.peer == CLIENT  # the handshake was complete
    assert event.destination.port == mesh.ports.dead


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.0\r\n\r\n", b"\x00\x01hello"], ids=["http", "junk"]
)
async def test_plaintext_to_the_tunnel_is_refused(mesh: Mesh, data: bytes) -> None:
    await mesh.plain(mesh.ports.tunnel, data=data)
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.REFUSED, Reason.NOT_TLS)
    assert event.tls_version == ""


async def test_a_port_scan_of_the_tunnel_is_seen(mesh: Mesh) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.ports.tunnel)
    writer.close()
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.REFUSED, Reason.NO_HANDSHAKE)


async def test_plaintext_is_refused_where_no_chain_takes_it(mesh: Mesh) -> None:
    await mesh.plain(mesh.ports.plain)
    (event,) = await mesh.events(1)
    # (These listeners are on loopback, which nothing from outside may reach in any mode.)
    assert (event.outcome, event.reason) == (Outcome.REFUSED, Reason.OTHER)
    assert event.detail == "came from outside for loopback"
    assert (event.side, mesh.reporters) == (Side.SERVER, ["uid-plain-in"])
    assert event.destination.port == mesh.ports.plain


async def test_plaintext_is_passed_where_a_chain_takes_it(mesh: Mesh) -> None:
    await mesh.plain(mesh.ports.plain, ALLOWED)
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.PLAINTEXT, Reason.NONE)
    assert (event.peer, event.claimed_peer, event.tls_version) == (None, None, "")


async def test_plaintext_to_an_app_that_is_not_there_fails(mesh: Mesh) -> None:
    await mesh.plain(mesh.ports.plain_dead)
    (event,) = await mesh.events(1)
    assert (event.outcome, event.reason) == (Outcome.FAILED, Reason.APP_UNREACHABLE)


async def test_a_connection_through_both_proxies_is_reported_by_the_server(mesh: Mesh) -> None:
    await mesh.plain(mesh.ports.out)
    (event,) = await mesh.events(1)
    assert (event.outcome, event.side) == (Outcome.ACCEPTED, Side.SERVER)
    assert event.peer == CLIENT


async def test_a_server_with_another_identity_is_refused_by_the_client(mesh: Mesh) -> None:
    await mesh.plain(mesh.ports.out_other)
    client, server = await mesh.events(2)
    assert (client.outcome, client.reason) == (Outcome.REFUSED, Reason.WRONG_SERVER_IDENTITY)
    assert (client.side, mesh.reporters[0]) == (Side.CLIENT, "uid-shared")
    assert (client.peer, client.claimed_peer) == (None, SERVER)
    assert (server.outcome, server.reason) == (Outcome.REFUSED, Reason.REFUSED_BY_PEER)
    assert server.peer is None


@pytest.mark.parametrize(
    ("where", "outcome", "reason"),
    [
        ("out_dead", Outcome.FAILED, Reason.UNREACHABLE),
        ("out_raw", Outcome.REFUSED, Reason.NOT_TLS),
        ("out_absent", Outcome.FAILED, Reason.NOT_CONFIGURED),
    ],
    ids=["nothing listens", "no TLS there", "no such cluster"],
)
async def test_a_client_says_why_it_does_not_get_through(
    mesh: Mesh, where: str, outcome: Outcome, reason: Reason
) -> None:
    await mesh.plain(getattr(mesh.ports, where))
    (event,) = await mesh.events(1)
    assert (event.side, event.outcome, event.reason) == (Side.CLIENT, outcome, reason)
