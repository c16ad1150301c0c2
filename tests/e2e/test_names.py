"""Names and addresses in a real mesh, as pods of a cluster find them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from tests.e2e import apps
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import PYTHON, Mesh, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.e2e.harness import Host

pytestmark = pytest.mark.e2e


def web(name: str, spec: str = "", *, namespace: str = "shop") -> str:
    """A pod with a web server on IPv4 alone, and a service account of its own."""
    return textwrap.dedent(f"""\
        ---
        apiVersion: v1
        kind: ServiceAccount
        metadata: {{name: {name}, namespace: {namespace}}}
        ---
        apiVersion: v1
        kind: Pod
        metadata: {{name: {name}, namespace: {namespace}, labels: {{app: web}}}}
        spec:
          serviceAccountName: {name}
          {spec}
          containers:
          - name: web
            image: none
            command: [{PYTHON}, -m, http.server, --bind, 0.0.0.0, "8080"]
            workingDir: /usr/share/doc/bash
            readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
        """)


def service(name: str, spec: str, *, namespace: str = "shop") -> str:
    return textwrap.dedent(f"""\
        ---
        apiVersion: v1
        kind: Service
        metadata: {{name: {name}, namespace: {namespace}}}
        spec: {{{spec}}}
        """)


def slice_of(name: str, address: str, *, port: int = 8080) -> str:
    return textwrap.dedent(f"""\
        ---
        apiVersion: discovery.k8s.io/v1
        kind: EndpointSlice
        metadata:
          name: {name}-1
          namespace: shop
          labels: {{kubernetes.io/service-name: {name}}}
        addressType: IPv4
        ports: [{{port: {port}}}]
        endpoints: [{{addresses: [{address}]}}]
        """)


SELECTED = "selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]"
RESOLVER = "dnsPolicy: None, dnsConfig: {nameservers: [10.9.9.9], searches: [corp.example]}"


@pytest.fixture(scope="module")
def manifests() -> Mapping[str, str]:
    return {
        "shop.yaml": apps.namespace("shop")
        + web("first", "hostname: one\n          subdomain: peers")
        + web("second")
        + service("web", SELECTED)
        + service("both", f"ipFamilyPolicy: PreferDualStack, {SELECTED}")
        + service("peers", f"clusterIP: None, {SELECTED}")
        + service("alias", "type: ExternalName, externalName: web.shop.svc.cluster.local")
        + service("far", "type: ExternalName, externalName: db.example")
        + service("outside", "ports: [{port: 80}]"),
        "clients.yaml": apps.namespace("legacy", in_mesh=False)
        + apps.idle_pod("client", namespace="shop")
        + apps.idle_pod("client", namespace="legacy")
        + web(
            "odd",
            "hostname: odd\n          subdomain: peers\n          setHostnameAsFQDN: true\n"
            "          hostAliases: [{ip: 10.9.9.9, hostnames: [old.example, older.example]}]\n"
            "          dnsConfig: {searches: [shop.svc.cluster.local], "
            "options: [{name: ndots, value: '1'}]}",
            namespace="legacy",
        )
        + web(
            "own",
            f"dnsPolicy: None\n          dnsConfig: {RESOLVER.partition('dnsConfig: ')[2]}",
            namespace="legacy",
        ),
    }


@pytest.fixture(scope="module")
def machine(shared_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A machine with a name server of its own, which a mesh with an uplink reaches."""
    resolv_conf = tmp_path_factory.mktemp("etc") / "resolv.conf"
    resolv_conf.write_text("nameserver 169.254.77.1\n")
    shared_host.run("mount", "--bind", str(resolv_conf), "/etc/resolv.conf")
    program = str(PROGRAMS / "name_server.py")
    with shared_host.start(sys.executable, program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield shared_host
        server.kill()


@pytest.fixture(scope="module")
def mesh(machine: Host, manifests: Mapping[str, str]) -> Iterator[Mesh]:
    with Mesh(machine, manifests) as running:
        eventually(
            lambda: all(pod["ready"] for pod in running.status()["pods"]),
            what="all pods' readiness",
        )
        first = running.pod("shop/first")["addresses"][0]
        running.write("slice.yaml", slice_of("outside", first))
        yield running


def look_up(mesh: Mesh, pod: str, *names: str) -> list[list[str]]:
    """What the system's resolver finds for each name, in order; nothing for what isn't there."""
    found: list[list[str]] = json.loads(
        mesh.exec(pod, PYTHON, "-c", _LOOK_UP, *names, check=True).stdout
    )
    return found


def addresses(mesh: Mesh, pod: str, name: str) -> list[str]:
    """What it finds for one."""
    (found,) = look_up(mesh, pod, name)
    return found


def of(mesh: Mesh, pod: str, *, family: int = 0) -> str:
    address: str = mesh.pod(pod)["addresses"][family]
    return address


def test_a_service_has_an_ipv4_address_and_no_other_unless_it_asks(mesh: Mesh) -> None:
    one, both = look_up(mesh, "shop/client", "web", "both.shop.svc.cluster.local")
    assert [":" in each for each in one] == [False]
    assert [":" in each for each in both] == [False, True]


def test_a_headless_service_publishes_its_pods_ipv4_addresses_alone(mesh: Mesh) -> None:
    expected = sorted([of(mesh, "shop/first"), of(mesh, "shop/second")])
    assert addresses(mesh, "legacy/client", "peers.shop") == expected


def test_a_pod_with_hostname_and_subdomain_has_a_name(mesh: Mesh) -> None:
    names = ("one.peers", "one.peers.shop", "one.peers.shop.svc.cluster.local", "second.peers")
    address = of(mesh, "shop/first")
    assert look_up(mesh, "shop/client", *names) == [[address], [address], [address], []]
    assert mesh.fetch("shop/client", "http://one.peers:8080/") is not None
    found = mesh.exec("shop/client", "getent", "hosts", address, check=True)
    assert found.stdout.split()[1] == "one.peers.shop.svc.cluster.local"


@pytest.mark.parametrize("client", ["shop/client", "legacy/client"])
def test_an_alias_leads_where_its_service_does(mesh: Mesh, client: str) -> None:
    alias, itself = look_up(mesh, client, "alias.shop", "web.shop")
    assert alias == itself != []
    assert mesh.fetch(client, "http://alias.shop/") is not None


def test_a_name_that_is_no_ones_does_not_exist(mesh: Mesh) -> None:
    names = ("nothing", "nothing.shop.svc.cluster.local", "www.example")
    assert look_up(mesh, "shop/client", *names) == [[], [], []]


def test_names_outside_are_what_the_hosts_name_server_says(mesh: Mesh) -> None:
    assert look_up(mesh, "shop/client", "db.example", "far") == [["192.0.2.9"], ["192.0.2.9"]]


def test_host_aliases_and_a_full_hostname_are_as_the_manifest_says(mesh: Mesh) -> None:
    assert addresses(mesh, "legacy/odd", "older.example") == ["10.9.9.9"]
    hostname = mesh.exec("legacy/odd", "hostname", check=True).stdout.strip()
    assert hostname == "odd.peers.legacy.svc.cluster.local"
    own = mesh.exec("legacy/odd", "hostname", "-i", check=True).stdout.split()
    assert sorted(own) == sorted(mesh.pod("legacy/odd")["addresses"])


def test_dns_config_adds_to_where_names_are_looked_up(mesh: Mesh) -> None:
    assert addresses(mesh, "legacy/odd", "web") == addresses(mesh, "shop/client", "web") != []
    text = mesh.exec("legacy/odd", "cat", "/etc/resolv.conf", check=True).stdout
    assert "options ndots:1\n" in text


def test_dns_policy_none_leaves_what_the_manifest_names(mesh: Mesh) -> None:
    text = mesh.exec("legacy/own", "cat", "/etc/resolv.conf", check=True).stdout
    assert text == "search corp.example\nnameserver 10.9.9.9\n"


def test_dns_answers_by_tcp_from_inside_and_outside_the_mesh(mesh: Mesh) -> None:
    for client in ("shop/client", "legacy/client"):
        answer = mesh.exec(client, PYTHON, "-c", _ASK_BY_TCP, check=True).stdout
        assert answer.split() == addresses(mesh, client, "web.shop")


def test_a_service_without_selector_reaches_a_pod_of_the_mesh_by_the_tunnel(mesh: Mesh) -> None:
    eventually(
        lambda: mesh.fetch("shop/client", "http://outside/") is not None, what="the slice's effect"
    )
    accepted = mesh.event(source="shop/client", destination="shop/first", outcome="accepted")
    assert accepted["peer"].endswith("/ns/shop/sa/client")
    assert mesh.fetch("legacy/client", "http://outside.shop/") is not None


def test_edits_of_a_slice_take_effect_and_a_bad_one_changes_nothing(mesh: Mesh) -> None:
    second = of(mesh, "shop/second")
    mesh.write("slice.yaml", slice_of("outside", second))

    def reached() -> bool:
        mesh.fetch("shop/client", "http://outside/")
        last = [each for each in mesh.events() if each["destination"]["pod"]][-1]
        return bool(last["destination"]["pod"] == "shop/second")

    eventually(reached, what="the edit's effect")
    mesh.write("slice.yaml", slice_of("outside", "127.0.0.1"))
    eventually(
        lambda: any("a loopback address" in each["found"] for each in mesh.status()["problems"]),
        what="the problem",
    )
    assert mesh.fetch("shop/client", "http://outside/") is not None
    mesh.delete("slice.yaml")
    eventually(
        lambda: mesh.fetch("shop/client", "http://outside/") is None, what="the slice's absence"
    )


def test_a_name_follows_its_service(mesh: Mesh) -> None:
    mesh.write("late.yaml", service("late", SELECTED))
    eventually(lambda: addresses(mesh, "shop/client", "late"), what="the name")
    mesh.write("late.yaml", service("late", f"clusterIP: None, {SELECTED}"))
    expected = addresses(mesh, "shop/client", "peers")
    eventually(lambda: addresses(mesh, "shop/client", "late") == expected, what="the endpoints")
    mesh.delete("late.yaml")
    eventually(lambda: not addresses(mesh, "shop/client", "late"), what="its absence")


_LOOK_UP = """
import json, socket, sys
def found(name):
    try:
        return sorted({each[4][0] for each in socket.getaddrinfo(name, None)})
    except socket.gaierror as error:
        assert error.errno == socket.EAI_NONAME, error
        return []
print(json.dumps([found(name) for name in sys.argv[1:]]))
"""

_ASK_BY_TCP = """
import socket, struct
name = b"".join(bytes((len(p),)) + p for p in b"web.shop.svc.cluster.local".split(b".")) + bytes(1)
question = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1)
server = next(l.split()[1] for l in open("/etc/resolv.conf") if l.startswith("nameserver"))
with socket.create_connection((server, 53), 20) as connection:
    connection.sendall(struct.pack("!H", len(question)) + question)
    file = connection.makefile("rb")
    answer = file.read(struct.unpack("!H", file.read(2))[0])
print(socket.inet_ntoa(answer[-4:]))
"""
