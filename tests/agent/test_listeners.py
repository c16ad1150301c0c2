"""What is said of a port that took no connection, from the sockets that listen."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from troth.agent import netns
from troth.agent.sockets import ListeningSocket, listening_instead, listening_sockets

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import InNode

V4, V6 = "10.244.0.2", "fd74::2"


@pytest.mark.parametrize(
    ("address", "sockets", "said"),
    [
        (V4, [], "nothing listens on port 80"),
        (V4, [("0.0.0.0", 81)], "nothing listens on port 80"),
        (V6, [("0.0.0.0", 80)], "it listens on 0.0.0.0:80 alone, so not on IPv6"),
        (V6, [(V4, 80)], f"it listens on {V4}:80 alone, so not on IPv6"),
        (V4, [("127.0.0.1", 80)], "it listens on 127.0.0.1:80 alone, so not on the pod's address"),
        (
            V6,
            [("127.0.0.1", 80), ("::1", 80)],
            "it listens on 127.0.0.1:80 and [::1]:80 alone, so not on the pod's address",
        ),
        (V4, [("::", 80, False)], "it listens on [::]:80 alone, so not on IPv4"),
        (V4, [("::", 80, True)], ""),
        (V4, [("127.0.0.1", 80), (V4, 80)], ""),
        (V6, [("::", 80, False)], ""),
    ],
)
def test_it_says_where_else_the_app_listens(
    address: str, sockets: list[tuple[str, int, bool]], said: str
) -> None:
    assert listening_instead(address, 80, [ListeningSocket(*each) for each in sockets]) == said


def listening_sockets_have_addresses(directory: Path) -> None:
    pod = directory / "pod"
    netns.create(pod)
    with (
        netns.socket_in(pod, socket.AF_INET) as one,
        netns.socket_in(pod, socket.AF_INET6) as two,
        netns.socket_in(pod, socket.AF_INET6) as three,
    ):
        two.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for server, address, port in ((one, "127.0.0.1", 80), (two, "::", 81), (three, "::", 82)):
            server.bind((address, port))
            server.listen()
        assert listening_sockets(pod) == {
            ListeningSocket("127.0.0.1", 80),
            ListeningSocket("::", 81, dual_stack=False),
            ListeningSocket("::", 82, dual_stack=True),
        }


def test_the_kernel_tells_where_sockets_listen(in_node_namespace: InNode, tmp_path: Path) -> None:
    in_node_namespace(listening_sockets_have_addresses, tmp_path)
