"""gRPC: calls, long streams with keepalive pings, and connections that are told to go away."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.servers.manifests import pod, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.manifests import Object
    from tests.servers.places import Place, Session

_PROGRAM = [sys.executable, str(Path(__file__).with_name("programs") / "grpc_echo.py")]
_PORTS = ("9090", "9091")


def objects(namespace: str) -> Iterator[Object]:
    server = " ".join(["exec", *_PROGRAM, "serve", *_PORTS])
    yield pod(f"{namespace}/grpc", server, 9090, own_usr=False)
    yield service(f"{namespace}/grpc", 9090, 9091)
    yield pod(f"{namespace}/grpc-client", own_usr=False)


def connect(place: Place, host: str) -> Session:
    session = place.session(*_PROGRAM, "connect", host, *_PORTS, client="grpc-client")
    session.hear("open")
    return session


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_call_comes_from_the_clients_own_address(place: Place, family: str) -> None:
    with connect(place, place.server("grpc")[family]) as client:
        peer = client.ask("say hello", "hello").split()[0]
        assert place.client("grpc-client")[family] in peer


def test_calls_outlive_connections_that_are_told_to_go_away(place: Place) -> None:
    with connect(place, place.name("grpc")) as client:
        client.ask("young and gone", "three connections and gone")


def test_streams_and_pings_outlive_changes_of_mode(inside: Place) -> None:
    with connect(inside, "grpc") as client:
        peer = client.ask("say first", "first").split()[0]
        for mode in inside.changes():
            client.ask(f"talk {mode}", f"echo {mode}")
            assert client.ask(f"say {mode}", mode).split()[0] == peer, "it has connected again"
            with connect(inside, "grpc") as another:
                another.ask("talk too", "echo too")
