"""What can be read on the wire between two pods of the mesh."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import PATIENCE_SECONDS, PYTHON, TROTH, Mesh
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import apply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.client import Client

pytestmark = pytest.mark.e2e

PATH = "/the-quick-brown-fox-4711"
REQUEST = f"GET {PATH} "
ANSWER = f"payments 8080 {PATH}"

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        *server("finance/web"),
        *server("finance/payments", "http:8080"),
        service("finance/payments", 8080),
    ]
)


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {"mesh.yaml": MANIFESTS}


class Sniffer:
    """Packets on all of the node's interfaces, the pods' bridge and its ports among them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def found(self, *texts: str) -> set[str]:
        """Stop, and say which of these texts were in a packet."""
        output, _ = self._process.communicate("\n".join(texts), timeout=PATIENCE_SECONDS)
        size, *found = output.splitlines()
        assert int(size) > 1000, "hardly anything was captured"
        return set(found)


@contextlib.contextmanager
def sniffer(mesh: Mesh) -> Iterator[Sniffer]:
    process = mesh.host.start(
        *(TROTH, "exec", "--node", "--", PYTHON, "-I", str(PROGRAMS / "sniffer.py")),
        env=mesh.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield Sniffer(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("by", ["service", "IPv4", "IPv6"])
@pytest.mark.parametrize("mode", ["DISABLE", "PERMISSIVE", "STRICT"])
def test_between_two_pods_of_the_mesh_plaintext_is_seen_with_disable_alone(
    mode: str, by: str, mesh: Mesh, web: Client
) -> None:
    apply(mesh, policy("finance/default", mode), modes={"finance/payments": mode})
    ipv4, ipv6 = mesh.pod("finance/payments")["addresses"]
    host = {"service": "payments", "IPv4": ipv4, "IPv6": ipv6}[by]
    with sniffer(mesh) as wire:
        reply = web.get(host, 8080, PATH)
        assert reply.body == ANSWER
        found = wire.found(REQUEST, ANSWER)
    assert found == ({REQUEST, ANSWER} if mode == "DISABLE" else set())
