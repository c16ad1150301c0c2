"""NATS: three servers that tell each other and their clients where they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import eventually
from tests.servers.manifests import headless, pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place, Session

NODES = ("nats-0", "nats-1", "nats-2")
_ROUTES = ",".join(f"nats://{name}.nats:6222" for name in NODES)
_SERVER = (
    "exec nats-server --addr :: --cluster_name test --cluster nats://[::]:6222"
    f" --routes {_ROUTES} -m 8222"
)

# A client by hand: its arguments are the host and the subjects, its lines are what to publish.
_CLIENT = r"""
import socket, sys, threading
connection = socket.create_connection((sys.argv[1], 4222))
stream = connection.makefile("rb")
print(stream.readline().decode(), end="", flush=True)
connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
for number, subject in enumerate(sys.argv[2:]):
    connection.sendall(f"SUB {subject} {number}\r\n".encode())
connection.sendall(b"PING\r\n")
def listen():
    for line in stream:
        word, *rest = line.split()
        if word == b"MSG":
            print("got", stream.read(int(rest[-1]) + 2).decode(), end="", flush=True)
        elif word == b"PING":
            connection.sendall(b"PONG\r\n")
        elif word == b"PONG":
            print("ready", flush=True)
        elif word != b"+OK":
            print(line.decode(), end="", flush=True)
threading.Thread(target=listen, daemon=True).start()
for line in sys.stdin:
    subject, _, text = line.rstrip("\n").partition(" ")
    connection.sendall(f"PUB {subject} {len(text)}\r\n{text}\r\nPING\r\n".encode())
"""


def objects(namespace: str) -> Iterator[Object]:
    labels = {"group": "nats"}
    for name in NODES:
        yield pod(f"{namespace}/{name}", _SERVER, 4222, subdomain="nats", labels=labels)
    yield headless(f"{namespace}/nats", 4222, labels=labels)


def client(place: Place, node: str, *subjects: str) -> Session:
    return place.session("python3", "-I", "-c", _CLIENT, f"{node}.nats.{place.servers}", *subjects)


def greeting(session: Session) -> dict[str, Any]:
    """What the server says first."""
    said: dict[str, Any] = json.loads(session.hear("INFO").removeprefix("INFO "))
    session.hear("ready")
    return said


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_server_sees_the_clients_own_address(place: Place, family: str) -> None:
    address = place.server("nats-0")[family]
    with place.session("python3", "-I", "-c", _CLIENT, address) as session:
        assert greeting(session)["client_ip"] == place.client()[family]


def test_the_servers_find_each_other_and_pass_messages_on(home: Place) -> None:
    await_routes(home)
    with client(home, "nats-0", "news") as reader, client(home, "nats-2") as writer:
        urls = greeting(reader)["connect_urls"]
        assert {f"{home.server(name)['IPv4']}:4222" for name in NODES} <= set(urls)
        greeting(writer)
        writer.ask("news over two servers", "ready")
        reader.hear("got over two servers")


def test_of_a_queue_group_one_member_gets_each_message(home: Place) -> None:
    await_routes(home)
    with (
        client(home, "nats-0", "jobs workers", "done") as one,
        client(home, "nats-1", "jobs workers", "done") as other,
        client(home, "nats-2") as writer,
    ):
        for session in (one, other, writer):
            greeting(session)
        for number in range(20):
            writer.say(f"jobs job {number}.")
        writer.say("done finished")
        one.hear("got finished")
        other.hear("got finished")
        jobs = [line for session in (one, other) for line in session.said if "got job" in line]
        assert sorted(jobs) == sorted(f"got job {number}.\n" for number in range(20))


def test_routes_and_clients_outlive_changes_of_mode(inside: Place) -> None:
    await_routes(inside)
    before = {name: routes(inside, name) for name in NODES}
    with client(inside, "nats-0", "news") as reader, client(inside, "nats-1") as writer:
        greeting(reader)
        greeting(writer)
        for mode in inside.changes():
            writer.say(f"news this is {mode}")
            reader.hear(f"got this is {mode}")
            with client(inside, "nats-2") as another:
                greeting(another)
                another.say(f"news {mode} elsewhere")
                reader.hear(f"got {mode} elsewhere")
    assert {name: routes(inside, name) for name in NODES} == before


def routes(place: Place, node: str) -> set[tuple[int, str]]:
    """The number and the start of each connection to another server."""
    found = json.loads(place.on(node, "curl", "-sS", "http://127.0.0.1:8222/routez"))
    return {(route["rid"], route["start"]) for route in found["routes"]}


def await_routes(place: Place) -> None:
    for name in NODES:
        eventually(
            lambda name=name: len(routes(place, name)) == 2,  # type: ignore[misc]  # mypy can't type defaults
            what=f"{name}'s routes",
        )
