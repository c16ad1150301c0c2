"""Where a pod's processes listen, as the kernel tells it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from troth.agent import netns
from troth.connect.listening import listening, parse_table
from troth.mesh.model import Endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import InNode

_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def _row(local: str, state: str = "0A") -> str:
    return f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0\n"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        pytest.param(_row("00000000:1F90"), [Endpoint("0.0.0.0", 8080)], id="every address"),
        pytest.param(_row("0100007F:0050"), [Endpoint("127.0.0.1", 80)], id="loopback"),
        pytest.param(_row("0200000A:0050", "01"), [], id="established"),
        pytest.param(_row("0" * 32 + ":0050"), [Endpoint("::", 80)], id="every IPv6 address"),
        pytest.param(
            _row("000000FD000000000000000002000000:0050"), [Endpoint("fd00::2", 80)], id="IPv6"
        ),
        pytest.param(
            _row("0000000000000000FFFF00000100007F:0050"),
            [Endpoint("127.0.0.1", 80)],
            id="IPv4 in an IPv6 socket",
        ),
    ],
)
def test_a_listening_socket_is_read_from_the_kernels_table(row: str, found: list[Endpoint]) -> None:
    assert list(parse_table(_HEAD + row)) == found


def test_without_a_table_nobody_listens() -> None:
    assert list(parse_table("")) == []


def test_a_pods_listeners_are_seen_and_nobody_elses(
    in_node_namespace: InNode, tmp_path: Path
) -> None:
    in_node_namespace(see_listeners, tmp_path)


def see_listeners(directory: Path) -> None:
    path = directory / "pod"
    netns.create(path)
    with (
        socket.create_server(("127.0.0.1", 0)),  # not in the pod
        netns.socket_in(path, socket.AF_INET) as one,
    ):
        one.bind(("127.0.0.1", 8080))
        assert listening(path) == ()
        one.listen()
        assert listening(path) == (Endpoint("127.0.0.1", 8080),)
    netns.remove(path)
