"""Which process of a node is its kubelet, found among real ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from troth.agent.kubelet import PORT, _is_roots, find_kubelet

if TYPE_CHECKING:
    from tests.conftest import InNode

LISTENS = f"""
import socket
with socket.create_server(("", {PORT})) as server:
    print("listening", flush=True)
    server.accept()
"""


def what_listens_on_the_kubelets_port() -> None:
    assert find_kubelet() is None
    with subprocess.Popen([sys.executable, "-c", LISTENS], stdout=subprocess.PIPE) as kubelet:
        assert kubelet.stdout is not None
        assert kubelet.stdout.readline() == b"listening\n"
        found = find_kubelet()
        assert found is not None
        assert found.pid == kubelet.pid
        kubelet.kill()
    assert find_kubelet() is None


def a_client_is_not_the_kubelet() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with (
        socket.create_server(("127.0.0.1", PORT + 1)) as server,
        socket.create_connection(server.getsockname(), source_address=("127.0.0.1", PORT)),
    ):
        assert find_kubelet() is None


def this_process_is_found_too() -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        found = find_kubelet()
        assert found is not None
        assert found.pid == os.getpid()


def test_a_process_of_another_user_is_no_kubelet_though_its_folder_is_roots() -> None:
    assert _is_roots("Name:\tkubelet\nUid:\t0\t0\t0\t0\n")
    assert not _is_roots("Name:\tkubelet\nUid:\t1000\t0\t0\t0\n")
    assert not _is_roots("Name:\tkubelet\nUid:\t1000\t1000\t1000\t1000\n")


def test_the_kubelet_is_what_listens_on_its_port(in_node_namespace: InNode) -> None:
    in_node_namespace(what_listens_on_the_kubelets_port)


def test_a_connection_from_the_kubelets_port_makes_no_kubelet(in_node_namespace: InNode) -> None:
    in_node_namespace(a_client_is_not_the_kubelet)


def test_the_first_process_of_a_node_can_be_its_kubelet(in_node_namespace: InNode) -> None:
    in_node_namespace(this_process_is_found_too)
