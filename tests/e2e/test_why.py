"""`troth why` on a real mesh: the cause is what happened, and the remedy helps."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.e2e.harness import PYTHON, Host, Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import FILE, apply, clients, wait_serving

if TYPE_CHECKING:
    from tests.e2e.client import Client

pytestmark = pytest.mark.e2e

OBJECTS = [
    namespace("finance", mesh=True),
    namespace("legacy", mesh=False),
    *server("finance/web", "http:8080"),
    *server("finance/payments", "http:8080"),
    *server("legacy/cron"),
    service("finance/payments", 8080, (99, 99)),
]
STRICT = policy("finance/payments-mtls", "STRICT", selector={"app": "payments"})
STRICT_PAYMENTS = dict.fromkeys(
    ("finance/payments", "finance/payments:8080"), "STRICT by finance/payments-mtls"
)


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {"mesh.yaml": document(OBJECTS), FILE: document([STRICT])}


def refusal(mesh: Mesh, **wanted: Any) -> dict[str, Any]:
    """Wait until `troth why` tells of a refusal with these properties."""

    def find() -> dict[str, Any] | None:
        report = json.loads(mesh.troth("why", "--count", "1000", "-o", "json").stdout)
        assert report["schema"] == "troth/why/v1"
        return next((r for r in report["refusals"] if wanted.items() <= r.items()), None)

    found = eventually(find, what=f"a refusal with {wanted}")
    assert found is not None
    return found


def test_plaintext_to_strict_is_told_with_the_policy_and_the_remedies_work(
    mesh: Mesh, cron: Client
) -> None:
    apply(mesh, STRICT, modes=STRICT_PAYMENTS)
    assert cron.get("payments.finance", 8080).cut
    assert cron.get("payments.finance", 8080).cut
    told = refusal(mesh, source="legacy/cron", reason="plaintext_to_strict", count=2)
    assert told["cause"] == ("Plaintext, and finance/payments-mtls sets STRICT for app=payments.")
    assert told["remedy"] == (
        "Put namespace legacy in the mesh, "
        "or set PERMISSIVE for port 8080 in finance/payments-mtls."
    )
    labelled, remedied = yaml.safe_load_all(told["manifests"])
    assert labelled["metadata"]["labels"] == {"troth.dev/mesh": "enabled"}
    apply(mesh, remedied, modes={"finance/payments:8080": "PERMISSIVE by finance/payments-mtls"})
    assert cron.get("payments.finance", 8080).body == "payments 8080 /"
    told = refusal(mesh, source="legacy/cron", reason="plaintext_to_strict")
    assert told["cause"] == "Plaintext, and finance/payments-mtls set STRICT at that time."
    assert told["remedy"].startswith("Nothing to do")


def test_the_text_is_one_headline_and_two_sentences(mesh: Mesh, cron: Client) -> None:
    apply(mesh, STRICT, modes=STRICT_PAYMENTS)
    assert cron.get("payments.finance", 8080).cut
    heads = tuple(
        f"legacy/cron ({address}) → finance/payments:8080 at "
        for address in mesh.pod("legacy/cron")["addresses"]
    )

    def told() -> str:
        text = mesh.troth("why", "legacy/cron", "--count", "1").stdout
        return text if text.startswith(heads) else ""

    text = eventually(told, what="the newest refusal")
    first, second, *manifests = text.splitlines()
    assert ": refused" in first
    assert second.startswith("  Plaintext, and finance/payments-mtls sets STRICT")
    assert "      kind: Namespace" in manifests


def test_an_app_that_does_not_listen_is_told_apart_from_a_refusal(mesh: Mesh, web: Client) -> None:
    assert web.get("payments", 99).cut
    told = refusal(mesh, source="finance/web", reason="app_unreachable")
    assert (told["outcome"], told["port"]) == ("failed", 99)
    assert "nothing took the connection at port 99 of finance/payments at its IPv" in told["cause"]
    assert told["cause"].endswith(f"{told['destination_address']}: nothing listens on port 99.")
    assert "`troth logs finance/payments`" in told["remedy"]


@pytest.mark.parametrize(
    ("listens_on", "family", "told_of_it"),
    [
        ("0.0.0.0", 1, "it listens on 0.0.0.0:7999 alone, so not on IPv6"),
        ("127.0.0.1", 0, "it listens on 127.0.0.1:7999 alone, so not on the pod's address"),
    ],
)
def test_an_app_that_listens_elsewhere_is_told_where(
    listens_on: str, family: int, told_of_it: str, mesh: Mesh, web: Client
) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = mesh.start("finance/payments", PYTHON, "-c", _LISTEN, listens_on, **pipes)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listens\n"
        assert web.get(mesh.pod("finance/payments")["addresses"][family], 7999).cut

        def told() -> bool:
            seen = refusal(mesh, source="finance/web", reason="app_unreachable")
            return told_of_it in seen["cause"]

        eventually(told, what=told_of_it)
    finally:
        server.kill()
        server.communicate()


_LISTEN = """
import socket, sys
server = socket.create_server((sys.argv[1], 7999))
print("listens", flush=True)
sys.stdin.read()
"""


def test_a_port_of_troths_own_is_told_to_be_one_and_by_whom(mesh: Mesh, web: Client) -> None:
    assert web.get("127.0.0.1", 15001).cut
    told = refusal(mesh, reason="reserved_port")
    assert told["source"] == "finance/web"


def test_who_looks_at_the_tunnel_is_told(mesh: Mesh, cron: Client) -> None:
    address = mesh.pod("finance/payments")["addresses"][0]
    assert cron.tls(address, 15007, name="8080", alpn=["troth"]).cut
    told = refusal(mesh, source="legacy/cron", reason="no_client_certificate")
    assert told["destination"] == "finance/payments"
    assert "showed no certificate" in told["cause"]


def test_a_name_that_nothing_has_is_an_error_that_says_which_there_are(mesh: Mesh) -> None:
    result = mesh.troth("why", "finance/nobody", check=False)
    assert result.returncode == 1
    assert "finance/payments" in result.stderr


def test_connections_that_passed_are_no_news(mesh: Mesh, web: Client) -> None:
    assert web.get("payments", 8080).body == "payments 8080 /"
    mesh.event(source="finance/web", outcome="accepted")
    report = json.loads(mesh.troth("why", "--count", "1000", "-o", "json").stdout)
    assert {each["outcome"] for each in report["refusals"]} <= {"refused", "failed"}


def test_events_and_causes_survive_a_killed_agent(host: Host) -> None:
    files = {"mesh.yaml": document(OBJECTS), FILE: document([STRICT])}
    with Mesh(host, files) as mesh:
        wait_serving(mesh)
        with clients(mesh, "legacy/cron") as [cron]:
            assert cron.get("payments.finance", 8080).cut
        refused = mesh.event(source="legacy/cron", reason="plaintext_to_strict")
        kept = mesh.state / "events"
        eventually(
            lambda: any(refused["time"][:19] in path.read_text() for path in kept.iterdir()),
            what="the event on disk",
        )
        pid = json.loads((mesh.state / "pid").read_text())["pid"]
        mesh.host.run("kill", "-9", str(pid))
        eventually(lambda: mesh.troth("status", check=False).returncode == 1)
        mesh.up()
        assert refused in mesh.events()
        assert refusal(mesh, source="legacy/cron", reason="plaintext_to_strict")["count"] == 1
        mesh.troth("down")
        assert not mesh.state.exists()
