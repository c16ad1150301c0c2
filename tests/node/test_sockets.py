from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from troth.node import _netns
from troth.node._sockets import TcpSockets, parse_tables, tcp_sockets

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import InNode

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def line(port: int, state: str) -> str:
    return f"   0: 0100007F:{port:04X} 0200007F:1234 {state} 00000000:00000000 00:00000000 0 0\n"


def test_sockets_are_told_by_port_and_state() -> None:
    table = HEADING + line(15001, "0A") + line(15001, "01") + line(15006, "06") + line(80, "08")
    assert parse_tables(table) == TcpSockets(
        listening=frozenset({15001}), connected=frozenset({15001, 80})
    )


def test_ipv6_sockets_count_too() -> None:
    local = "00000000000000000000000000000000:3A9F"
    table = f"{HEADING}   0: {local} {local} 0A 00000000:00000000 00:00000000 0 0\n"
    assert parse_tables(HEADING, table).listening == {15007}


def sockets_of_the_pod_and_no_others(directory: Path) -> None:
    pod = directory / "pod"
    _netns.create(pod)
    with (
        socket.create_server(("127.0.0.1", 81)),
        _netns.socket_in(pod, socket.AF_INET) as server,
        _netns.socket_in(pod, socket.AF_INET) as client,
    ):
        server.bind(("127.0.0.1", 15007))
        server.listen()
        assert tcp_sockets(pod) == TcpSockets(listening=frozenset({15007}), connected=frozenset())
        client.connect(("127.0.0.1", 15007))
        server.accept()[0].close()
        assert 15007 in tcp_sockets(pod).connected


def test_only_the_sockets_of_the_given_namespace_are_seen(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(sockets_of_the_pod_and_no_others, tmp_path)
