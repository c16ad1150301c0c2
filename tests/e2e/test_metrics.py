"""`troth up --metrics` on a real mesh: what Prometheus would store, and who can't reach it."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.harness import TROTH, Host, Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import FILE, wait_serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

MANIFESTS = {
    "mesh.yaml": document(
        [
            namespace("finance", mesh=True),
            namespace("legacy", mesh=False),
            *server("finance/web", "http:8080"),
            *server("legacy/cron"),
            service("finance/web", 8080),
        ]
    ),
    FILE: document([policy("finance/default", "STRICT")]),
}
REFUSED = (
    ("destination", "finance/web"),
    ("outcome", "refused"),
    ("reason", "plaintext_to_strict"),
    ("reporter", "destination"),
    ("source", "legacy/cron"),
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(mesh: Mesh, *curl: str) -> Samples:
    text = mesh.host.run("curl", "-sS", "--fail", *curl).stdout
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_socket_of_the_owners_shows_what_happens_in_the_mesh(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "m"
    with Mesh(host, MANIFESTS, options=("--metrics", f"unix:{path}")) as mesh:
        wait_serving(mesh)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        def samples() -> Samples:
            return scraped(mesh, "--unix-socket", str(path), "http://localhost/metrics")

        before = samples()
        assert before["troth_captured_pods", ()] == 1
        assert before["troth_change_to_ack_seconds_count", ()] > 0
        assert before["troth_policy_generation", ()] == before["troth_policy_generation_wanted", ()]
        identity = ("identity", "spiffe://cluster.local/ns/finance/sa/web")
        assert before["troth_certificate_not_after_timestamp_seconds", (identity,)] > 0
        assert ("troth_connections_total", REFUSED) not in before

        assert mesh.fetch("legacy/cron", "http://web.finance:8080/") is None
        eventually(
            lambda: samples().get(("troth_connections_total", REFUSED)) == 1,
            what="the refusal's count",
        )
        mesh.write(FILE, document([policy("finance/default", "PERMISSIVE")]))
        eventually(
            lambda: samples()["troth_policy_generation", ()] > before["troth_policy_generation", ()]
        )
    assert not path.exists()


def test_a_tcp_port_on_loopback_is_the_nodes_alone(host: Host) -> None:
    with Mesh(host, MANIFESTS, options=("--metrics", "127.0.0.1:9464")) as mesh:
        wait_serving(mesh)
        command = ("curl", "-sS", "-m", "5", "http://127.0.0.1:9464/metrics")
        assert "troth_captured_pods 1.0" in mesh.on_node(*command).stdout
        assert mesh.exec("legacy/cron", *command).returncode != 0


def test_what_is_no_address_is_wrong_use(host: Host, tmp_path: Path) -> None:
    command = (TROTH, "up", "--detach", "--metrics", "localhost:1", str(tmp_path))
    result = host.run(*command, check=False)
    assert result.returncode == 2
    assert "write PORT, ADDRESS:PORT" in result.stderr
