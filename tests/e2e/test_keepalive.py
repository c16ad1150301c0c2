"""An idle connection lives for as long as both its ends are there, and no longer."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e import apps
from tests.e2e.apps import said
from tests.e2e.harness import PYTHON, Mesh, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.harness import Host

pytestmark = pytest.mark.e2e

CLIENT, SERVER, STRANGER = "shop/client", "shop/server", "bare/stranger"
SECONDS, FORGET_SECONDS = 4, 5


@pytest.fixture(scope="module")
def mesh(shared_host: Host) -> Iterator[Mesh]:
    manifests = {
        "shop.yaml": apps.namespace("shop") + apps.idle_pod("client", namespace="shop"),
        "bare.yaml": apps.namespace("bare", in_mesh=False)
        + apps.idle_pod("stranger", namespace="bare"),
        "server.yaml": apps.server("server", namespace="shop"),
    }
    options = ("--keepalive-seconds", str(SECONDS))
    with Mesh(shared_host, manifests, options=options) as running:
        eventually(lambda: running.fetch(CLIENT, f"http://server:{apps.HTTP}/"), what="an answer")
        yield running


@pytest.mark.parametrize("pod", [CLIENT, STRANGER], ids=["tunnel", "plaintext"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_an_answer_arrives_however_long_after_the_question_has_ended(
    pod: str, family: int, mesh: Mesh
) -> None:
    for each in (CLIENT, SERVER):
        name = "netfilter/nf_conntrack_tcp_timeout_close_wait"
        in_pod(mesh, each, "tee", f"/proc/sys/net/{name}", input=str(FORGET_SECONDS))
    address = mesh.pod(SERVER)["addresses"][family]
    with started(mesh, SERVER, _ANSWER, address) as server:
        assert server.stdout.readline() == "listening\n"
        with started(mesh, pod, _ASK, address) as client:
            assert server.stdout.readline() == "question\n"
            # Longer than the kernel would remember the connection without them.
            probes = FORGET_SECONDS // (SECONDS // 2) + 2
            before = probed(mesh, SERVER)
            eventually(lambda: probed(mesh, SERVER) >= before + 2 * probes, what="probes")
            server.stdin.write("go on\n")
            server.stdin.flush()
            assert client.stdout.readline() == "answer\n"


def test_a_peer_that_has_vanished_is_noticed_told_of_and_its_connections_are_freed(
    mesh: Mesh,
) -> None:
    address = mesh.pod(SERVER)["addresses"][0]
    begun = datetime.now(UTC)
    watching = (PYTHON, "-c", _WATCH, address, str(apps.WATCH_END))
    client = mesh.start(CLIENT, *watching, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "watching\n"
    own = mesh.pod(CLIENT)["addresses"]
    rules = "".join(
        f"add rule bridge gone forward {family} {end} {address} drop\n"
        for family, address in zip(("ip", "ip6"), own, strict=True)
        for end in ("saddr", "daddr")
    )
    chain = "{ type filter hook forward priority 0; }"
    mesh.on_node(
        "nft",
        "-f",
        "-",
        input=f"add table bridge gone\nadd chain bridge gone forward {chain}\n{rules}",
    )
    try:
        said(mesh, SERVER, "end")
        assert client.stdout.readline() == "ended\n"
        for pod in (CLIENT, SERVER):
            eventually(lambda pod=pod: not tunnels(mesh, pod), what="the end of all tunnels")  # type: ignore[misc]  # bound at once
        told = eventually(lambda: vanished(mesh), what="a word of it")
        assert [(each["source"], each["destination"], each["port"]) for each in told] == [
            (CLIENT, SERVER, apps.WATCH_END)
        ]
        assert f"{CLIENT} stopped answering" in told[0]["cause"]
        assert datetime.fromisoformat(told[0]["last"]) >= begun + timedelta(seconds=SECONDS)
    finally:
        mesh.on_node("nft", "delete table bridge gone")
        client.kill()
        client.communicate()


def vanished(mesh: Mesh) -> list[Any]:
    """What is told of connections that ended because a peer had vanished."""
    report = json.loads(mesh.troth("why", "-o", "json").stdout)
    return [each for each in report["refusals"] if each["reason"] == "peer_vanished"]


def in_pod(mesh: Mesh, pod: str, *command: str, **options: Any) -> str:
    """Run a command in a pod's network namespace, with the node's rights."""
    netns = mesh.state / "netns" / mesh.pod(pod)["uid"]
    return mesh.on_node("nsenter", f"--net={netns}", *command, **options).stdout


def probed(mesh: Mesh, pod: str) -> int:
    """How many keepalive probes have been sent in a pod."""
    lines = in_pod(mesh, pod, "cat", "/proc/net/netstat").splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(values[names.index("TCPKeepAlive")])


def tunnels(mesh: Mesh, pod: str) -> list[str]:
    """Connections between proxies, as seen in a pod."""
    lines = in_pod(mesh, pod, "ss", "-tnH", "state", "established").splitlines()
    return [line for line in lines if ":15007" in line]


def started(mesh: Mesh, pod: str, program: str, address: str) -> Any:
    """A Python program in a pod that is told an address."""
    pipe = subprocess.PIPE
    argv = (PYTHON, "-u", "-c", program, address)
    return mesh.start(pod, *argv, stdin=pipe, stdout=pipe, text=True)


_ANSWER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 7999), family=family) as server:
    print("listening")
    connection, _ = server.accept()
    question = b""
    while data := connection.recv(100):
        question += data
    print(question.decode())
    sys.stdin.readline()
    connection.sendall(b"answer")
    connection.close()
"""

_ASK = """
import socket, sys
client = socket.create_connection((sys.argv[1], 7999))
client.sendall(b"question")
client.shutdown(socket.SHUT_WR)
print(client.recv(100).decode())
"""

_WATCH = """
import socket, sys
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(client.recv(9).decode(), end="", flush=True)
try:
    client.recv(9)
except OSError:
    pass
print("ended", flush=True)
"""
