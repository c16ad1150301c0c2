from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, NoReturn

import pytest

from troth.agent import netns, sockets
from troth.agent.sockets import connected_ports, listening_ports, parse_table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import InNode

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def line(port: int, state: str) -> str:
    return f"   0: 0100007F:{port:04X} 0200007F:1234 {state} 00000000:00000000 00:00000000 0 0\n"


def test_a_table_tells_ports_and_states() -> None:
    table = HEADING + line(15001, "0A") + line(15001, "01") + line(80, "08")
    assert list(parse_table(table)) == [(15001, 0x0A), (15001, 0x01), (80, 0x08)]


def test_a_table_of_ipv6_does_so_too() -> None:
    local = "00000000000000000000000000000000:3A9F"
    table = f"{HEADING}   0: {local} {local} 0A 00000000:00000000 00:00000000 0 0\n"
    assert list(parse_table(table)) == [(15007, 0x0A)]


def sockets_of_the_pod_and_no_others(directory: Path) -> None:
    pod = directory / "pod"
    netns.create(pod)
    with (
        socket.create_server(("127.0.0.1", 81)),
        netns.socket_in(pod, socket.AF_INET) as server,
        netns.socket_in(pod, socket.AF_INET6) as second,
        netns.socket_in(pod, socket.AF_INET) as client,
    ):
        server.bind(("127.0.0.1", 15007))
        server.listen()
        second.bind(("::1", 15006))
        second.listen()
        assert listening_ports(pod) == {15006, 15007}
        assert connected_ports(pod) == frozenset()
        client.connect(("127.0.0.1", 15007))
        peer = server.accept()[0]
        assert connected_ports(pod) == {15007, client.getsockname()[1]}
        peer.close()
        assert 15007 in connected_ports(pod)
        assert listening_ports(pod) == {15006, 15007}


def test_only_the_sockets_of_the_given_namespace_are_seen(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(sockets_of_the_pod_and_no_others, tmp_path)


def listeners_without_inet_diag(directory: Path) -> None:
    def dump(*_: object) -> NoReturn:
        raise OSError(errno.ENOENT, "no such thing")

    pod = directory / "pod"
    netns.create(pod)
    with pytest.MonkeyPatch.context() as patch, netns.socket_in(pod, socket.AF_INET) as server:
        patch.setattr(sockets, "dump", dump)
        server.bind(("127.0.0.1", 15007))
        server.listen()
        assert listening_ports(pod) == {15007}


def test_a_kernel_without_inet_diag_tells_the_same(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(listeners_without_inet_diag, tmp_path)
