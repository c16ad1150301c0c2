"""Capture holds though somebody with rights in the pod takes it away, as the kernel judges."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from tests.e2e.harness import PYTHON, Host, Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server
from tests.e2e.test_metrics import scraped

from troth.control.state_dir import StateDirectory
from troth.mesh.ports import PORT_SETS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

MANIFESTS = {
    "mesh.yaml": document(
        [
            namespace("shop", mesh=True),
            namespace("legacy", mesh=False),
            policy("shop/default", "STRICT"),
            *server("shop/app", "http:8080"),
            *server("shop/web"),
            *server("legacy/cron"),
        ]
    )
}


class ProvenMesh:
    """A mesh with a STRICT server, and what its agent counts."""

    def __init__(self, mesh: Mesh, metrics: Path) -> None:
        self.mesh, self._metrics = mesh, metrics
        self.url = f"http://{mesh.pod('shop/app')['addresses'][0]}:8080/"
        (app,) = mesh.ask("find", name="shop/app")
        self._netns = StateDirectory(mesh.state).netns / app["uid"]

    def in_pod(self, *command: str) -> str:
        """What a command says in the server's network namespace, run by the node's root."""
        return self.mesh.on_node("nsenter", f"--net={self._netns}", "--", *command).stdout

    def rules(self) -> set[str]:
        """Lines of all tables; without those of elements, of which packets make some, too."""
        lines = self.in_pod("nft", "--stateless", "list", "ruleset").splitlines()
        return {line for line in lines if "elements" not in line}

    def restored(self, part: str) -> float:
        samples = scraped(
            self.mesh, "--unix-socket", str(self._metrics), "http://localhost/metrics"
        )
        return samples["troth_capture_restored_total", (("part", part),)]

    def is_held(self) -> bool:
        """Whether the tunnel gets in, and plaintext doesn't."""
        return (
            self.mesh.fetch("shop/web", self.url),
            self.mesh.fetch("legacy/cron", self.url),
        ) == (
            "app 8080 /",
            None,
        )


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvenMesh]:
    path = tmp_path_factory.mktemp("metrics") / "m"
    with Host() as host, Mesh(host, MANIFESTS, options=("--metrics", f"unix:{path}")) as mesh:
        running = ProvenMesh(mesh, path)
        eventually(running.is_held, what="STRICT")
        yield running


@pytest.mark.parametrize(
    "change",
    [
        "flush ruleset",
        "delete table inet troth_strangers",
        "flush chain inet troth inbound",
        "insert rule inet troth entering_first accept",
        "add table inet troth { flags dormant; }",
    ],
)
def test_rules_that_somebody_changes_are_put_back_at_once_and_counted(
    proven: ProvenMesh, change: str
) -> None:
    before, counted = proven.rules(), proven.restored("rules")
    proven.in_pod("nft", change)
    eventually(lambda: proven.restored("rules") > counted, seconds=20, what="the count")
    eventually(lambda: before <= proven.rules(), what="all rules, those of Services included")
    assert proven.is_held()
    assert proven.restored("rules") == counted + 1


SHARING = """
import socket, sys
for family, address in ((socket.AF_INET, sys.argv[1]), (socket.AF_INET6, sys.argv[2])):
    for port in map(int, sys.argv[3:]):
        with socket.socket(family) as sharing:
            sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sharing.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sharing.bind((address, port))
                sharing.listen()
            except OSError as error:
                print(error.errno)
            else:
                print("shared", family, port)
"""


def test_nobody_in_a_pod_shares_envoys_ports(proven: ProvenMesh) -> None:
    for addresses, ports in (
        (("0.0.0.0", "::"), PORT_SETS[0]),
        (("127.0.0.1", "::1"), PORT_SETS[0][:1]),
    ):
        said = proven.in_pod(PYTHON, "-c", SHARING, *addresses, *map(str, ports)).split("\n")[:-1]
        assert said == [str(errno.EADDRINUSE)] * 2 * len(ports)
    assert proven.is_held()


def test_a_table_of_somebody_elses_is_left_alone(proven: ProvenMesh) -> None:
    counted = proven.restored("rules")
    proven.in_pod("nft", "add table inet theirs; add chain inet theirs x")
    proven.in_pod("nft", "flush chain inet troth inbound")
    eventually(lambda: proven.restored("rules") > counted, what="the count")
    assert "table inet theirs {" in proven.rules()


def test_sockets_of_envoys_that_somebody_closes_are_opened_again(proven: ProvenMesh) -> None:
    counted = proven.restored("listeners")
    proven.in_pod("ss", "-K", "-lt", "sport", "=", ":15007")
    assert not proven.is_held()
    eventually(proven.is_held, what="the listeners")
    assert proven.restored("listeners") == counted + 1
