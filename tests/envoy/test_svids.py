"""Which certificates Envoy takes for X509-SVIDs, at both ends of the tunnel."""

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
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf import json_format

from troth.envoy.process import EnvoyOptions, command, find_envoy
from troth.envoy.tls import bundle_secret, client_socket, server_socket
from troth.identity.bundle import TrustBundle
from troth.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.envoy.conftest import Pair, Pki

pytestmark = pytest.mark.e2e

TRUST_DOMAIN = TrustDomain.parse("cluster.local")
ID = SpiffeId.for_service_account(TRUST_DOMAIN, "default", "payments")
EXPECTED, OTHER = str(ID), "spiffe://cluster.local/ns/default/sa/other"
TYPE = "type.googleapis.com/envoy.extensions."


class Ports(msgspec.Struct):
    """Where things listen on 127.0.0.1."""

    tunnel: int
    outbound: int
    server: int
    app: int


class Ends:
    """An Envoy with both ends of the tunnel: one takes clients, the other goes to a server."""

    def __init__(self, pki: Pki, ports: Ports) -> None:
        self.pki, self._ports = pki, ports
        # Not parsed: a root of these tests says less than one of the mesh has to.
        self._bundle = TrustBundle(trust_domain=TRUST_DOMAIN, certificates=(pki.ca().read_bytes(),))

    def bootstrap(self) -> dict[str, Any]:
        own = self.pki.leaf(EXPECTED)
        server = as_json(server_socket(ID))
        client = as_json(client_socket(ID))
        validation = as_json(bundle_secret(self._bundle).validation_context)
        for transport_socket in (server, client):
            context = transport_socket["typed_config"]["common_tls_context"]
            del context["tls_certificate_sds_secret_configs"]
            del context["validation_context_sds_secret_config"]
            context["tls_certificates"] = [files(own)]
            context["validation_context"] = validation
        state = {
            "@type": TYPE + "filters.network.set_filter_state.v3.Config",
            "on_new_connection": [
                {
                    "object_key": "envoy.network.upstream_subject_alt_names",
                    "format_string": {"text_format_source": {"inline_string": EXPECTED}},
                    "shared_with_upstream": "ONCE",
                }
            ],
        }
        return {
            "static_resources": {
                "listeners": [
                    listener(self._ports.tunnel, [proxy("app", **LATE)], transport_socket=server),
                    listener(
                        self._ports.outbound,
                        [{"name": "state", "typed_config": state}, proxy("server")],
                    ),
                ],
                "clusters": [
                    cluster("app", self._ports.app),
                    cluster("server", self._ports.server, transport_socket=client),
                ],
            }
        }

    async def takes_client(self, shown: Pair) -> bool:
        """Whether a client that shows this reaches the app behind the tunnel."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.pki.ca())
        context.load_cert_chain(*shown)
        context.set_alpn_protocols(["troth"])
        async with greeting(self._ports.app):
            return await greeted(self._ports.tunnel, ssl=context)

    async def takes_server(self, shown: Pair) -> bool:
        """Whether its own client believes that a server that shows this is the expected one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*shown)
        context.set_alpn_protocols(["troth"])
        async with greeting(self._ports.server, ssl=context):
            return await greeted(self._ports.outbound)


@contextlib.asynccontextmanager
async def greeting(port: int, **options: Any) -> AsyncIterator[None]:
    """With a server that greets everybody and waits until they leave."""
    guests: set[asyncio.Task[None]] = set()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = asyncio.current_task()
        assert guest is not None
        guests.add(guest)
        with contextlib.suppress(OSError):
            writer.write(b"hello\n")
            await reader.read()
        await close(writer)

    async with await asyncio.start_server(greet, "127.0.0.1", port, **options):
        yield
        await asyncio.gather(*guests)


async def greeted(port: int, **options: Any) -> bool:
    """Whether one who comes to this port is greeted."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    except OSError:
        return False
    try:
        return await reader.readline() == b"hello\n"
    except OSError:
        return False
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def as_json(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def files(pair: Pair) -> dict[str, Any]:
    return {
        "certificate_chain": {"filename": str(pair.certificate)},
        "private_key": {"filename": str(pair.key)},
    }


def listener(port: int, filters: list[Any], **chain: Any) -> dict[str, Any]:
    return {
        "name": f"at {port}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": filters, **chain}],
    }


LATE = {"upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE", "max_early_data_bytes": 0}


def proxy(to: str, **more: Any) -> dict[str, Any]:
    name = TYPE + "filters.network.tcp_proxy.v3.TcpProxy"
    config = {"@type": name, "stat_prefix": "t", "cluster": to, **more}
    return {"name": "tcp", "typed_config": config}


def cluster(name: str, port: int, **more: Any) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    assignment = {"cluster_name": name, "endpoints": endpoints}
    return {"name": name, "load_assignment": assignment, **more}


@pytest.fixture(scope="module")
def ends(
    tmp_path_factory: pytest.TempPathFactory, pki: Pki, free_port: Callable[[], int]
) -> Iterator[Ends]:
    ports = Ports(*(free_port() for _ in msgspec.structs.fields(Ports)))
    ends = Ends(pki, ports)
    path: Path = tmp_path_factory.mktemp("ends") / "bootstrap.json"
    path.write_text(json.dumps(ends.bootstrap()))
    options = EnvoyOptions(bootstrap=path, binary=find_envoy())
    with subprocess.Popen(command(options)) as envoy:
        while True:  # until it serves; a dead one ends the wait, too
            assert envoy.poll() is None
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", ports.outbound)).close()
                break
        yield ends
        envoy.terminate()


def dns(name: str) -> x509.GeneralName:
    return x509.DNSName(name)


TAKEN, REFUSED = True, False

NO_SVIDS: list[tuple[str, dict[str, Any]]] = [
    ("no name", {"uris": []}),
    ("a DNS name like the ID", {"uris": [], "names": [x509.DNSName(EXPECTED)]}),
    ("a mail address like the ID", {"uris": [], "names": [x509.RFC822Name(EXPECTED)]}),
    (
        "a DNS name like the ID, and an ID of another trust domain",
        {"uris": ["spiffe://other.example/ns/a/sa/b"], "names": [x509.DNSName(EXPECTED)]},
    ),
    ("the trust domain's ID", {"uris": ["spiffe://cluster.local"]}),
    ("an ID with an empty path", {"uris": ["spiffe://cluster.local/"]}),
    ("an ID of a longer trust domain", {"uris": ["spiffe://cluster.local.example/ns/a/sa/b"]}),
    (
        "an ID of a trust domain that a dot stands for",
        {"uris": ["spiffe://cluster-local/ns/a/sa/b"]},
    ),
    ("an ID in capital letters", {"uris": ["SPIFFE://CLUSTER.LOCAL/ns/default/sa/payments"]}),
    ("an ID with something behind", {"uris": [f"{EXPECTED}?x"]}),
    ("another CA", {"uris": [EXPECTED], "ca": "foreign"}),
    ("a past life", {"uris": [EXPECTED], "begins": -2, "ends": -1}),
    ("a future life", {"uris": [EXPECTED], "begins": 1, "ends": 2}),
    ("a key not to sign with", {"uris": [EXPECTED], "usages": ["key_agreement"]}),
    (
        "another purpose",
        {"uris": [EXPECTED], "purposes": [ExtendedKeyUsageOID.CODE_SIGNING]},
    ),
]
"""Refused at both ends."""

BOTH_IDS = [[EXPECTED, OTHER], [OTHER, EXPECTED]]

CERTIFICATES = [
    pytest.param({"uris": [EXPECTED]}, TAKEN, TAKEN, id="the ID"),
    pytest.param(
        {"uris": [EXPECTED], "names": [x509.DNSName("payments.default")]},
        *(TAKEN, TAKEN),
        id="the ID, and a DNS name",
    ),
    pytest.param({"uris": [OTHER]}, TAKEN, REFUSED, id="another's ID"),
    pytest.param(
        {"uris": [EXPECTED], "purposes": [ExtendedKeyUsageOID.SERVER_AUTH]},
        *(REFUSED, TAKEN),
        id="a server's purpose",
    ),
    pytest.param(
        {"uris": [EXPECTED], "purposes": [ExtendedKeyUsageOID.CLIENT_AUTH]},
        *(TAKEN, REFUSED),
        id="a client's purpose",
    ),
    *(pytest.param(shown, REFUSED, REFUSED, id=what) for what, shown in NO_SVIDS),
]

BEYOND_THE_STANDARD = [
    pytest.param({"uris": [EXPECTED], "signs": True}, id="a CA's"),
    pytest.param(
        {"uris": [EXPECTED], "usages": ["digital_signature", "key_cert_sign", "crl_sign"]},
        id="a key to sign certificates with",
    ),
    pytest.param({"uris": [EXPECTED], "usages": None}, id="a key to do anything with"),
    *(pytest.param({"uris": uris}, id=f"two IDs: {' '.join(uris)}") for uris in BOTH_IDS),
    pytest.param(
        {"uris": [OTHER], "names": [x509.DNSName(EXPECTED)]},
        id="another's ID, and a DNS name like the ID",
    ),
    pytest.param(
        {"uris": [OTHER], "names": [x509.RFC822Name(EXPECTED)]},
        id="another's ID, and a mail address like the ID",
    ),
]
"""What Envoy takes at both ends, and X509-SVID forbids; docs/security.md tells of each."""


@pytest.mark.parametrize(("shown", "of_client", "of_server"), CERTIFICATES)
async def test_a_certificate_is_taken_only_by_whom_it_is_for(
    shown: dict[str, Any], *, of_client: bool, of_server: bool, ends: Ends
) -> None:
    certificate = ends.pki.leaf(**shown)
    taken = (await ends.takes_client(certificate), await ends.takes_server(certificate))
    assert taken == (of_client, of_server)


@pytest.mark.parametrize("shown", BEYOND_THE_STANDARD)
async def test_what_envoy_takes_beyond_the_standard_is_known(
    shown: dict[str, Any], ends: Ends
) -> None:
    # Once it refuses one of these, that belongs in the table above, and out of the docs.
    certificate = ends.pki.leaf(**shown)
    assert await ends.takes_client(certificate)
    assert await ends.takes_server(certificate)
