"""`troth audit` on a real mesh: who is ready for STRICT, and policies that break nobody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import TROTH, Host, Mesh, eventually
from tests.e2e.manifests import document, namespace, server, service
from tests.e2e.policies import clients, wait_for, wait_serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.client import Client

pytestmark = pytest.mark.e2e

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        namespace("legacy", mesh=False),
        *server("finance/web", "http:8080"),
        *server("finance/payments", "http:8080", "http:9090"),
        *server("legacy/cron"),
        service("finance/web", 8080),
        service("finance/payments", 8080, 9090),
    ]
)


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {"mesh.yaml": MANIFESTS}


@pytest.fixture
def fresh(host: Host) -> Iterator[Mesh]:
    """A mesh that has seen nothing yet."""
    with Mesh(host, {"mesh.yaml": MANIFESTS}) as running:
        wait_serving(running)
        yield running


@pytest.fixture
def pods(fresh: Mesh) -> Iterator[list[Client]]:
    with clients(fresh, "finance/web", "finance/payments", "legacy/cron") as running:
        yield running


def audited(mesh: Mesh, *options: str) -> tuple[int, dict[str, Any]]:
    result = mesh.troth("audit", "-o", "json", *options, check=False)
    return result.returncode, json.loads(result.stdout)


def states(report: dict[str, Any]) -> dict[str, str]:
    return {
        f"{workload['name']}:{number}": port["state"]
        for workload in report["workloads"]
        for number, port in workload["ports"].items()
    }


def wait_seen(mesh: Mesh, *, connections: int) -> None:
    """Wait until so many connections are in the audit."""

    def count() -> bool:
        (report,) = mesh.ask("audit")
        pairs = report["pairs"]
        seen: int = sum(p["tunnel"] + p["plaintext"] + p["refused"] for p in pairs)
        return seen >= connections

    eventually(count, what=f"{connections} connections")


def test_an_audit_follows_the_traffic_and_its_policies_break_nobody(
    fresh: Mesh, pods: list[Client]
) -> None:
    web, payments, cron = pods
    code, before = audited(fresh)
    assert (code, before["schema"], before["ready"]) == (1, "troth/audit/v1", False)
    assert set(states(before).values()) == {"no traffic"}
    assert before["policies"] == []

    calls: list[tuple[Callable[[], str | None], str]] = [
        (lambda: web.get("payments", 8080).body, "payments 8080 /"),
        (lambda: payments.get("web", 8080).body, "web 8080 /"),
        (lambda: cron.get("payments.finance", 9090).body, "payments 9090 /"),
    ]
    for call, answer in calls:
        assert call() == answer
    wait_seen(fresh, connections=3)
    directory = fresh.home / "safe"
    code, report = audited(fresh, "--write-policy", str(directory))
    assert code == 1
    assert states(report) == {
        "payments:8080": "ready",
        "payments:9090": "plaintext",
        "web:8080": "ready",
    }
    [culprit] = report["workloads"][0]["ports"]["9090"]["because_of"]
    assert (culprit["source"], culprit["count"]) == ("legacy/cron", 1)

    applied(fresh, directory)
    wait_for(
        fresh,
        {
            "finance/payments": "STRICT by finance/payments-mtls",
            "finance/payments:9090": "PERMISSIVE by finance/payments-mtls",
            "finance/web": "STRICT by finance/web-mtls",
        },
    )
    for call, answer in calls:
        assert call() == answer
    assert cron.get("payments.finance", 8080).cut
    assert cron.get("web.finance", 8080).cut


def test_a_namespace_without_plaintext_gets_one_policy_and_is_ready(
    fresh: Mesh, pods: list[Client]
) -> None:
    web, payments, cron = pods
    assert web.get("payments", 8080).body
    assert web.get("payments", 9090).body
    assert payments.get("web", 8080).body
    wait_seen(fresh, connections=3)
    directory = fresh.home / "safe"
    code, report = audited(fresh, "--write-policy", str(directory))
    assert (code, report["ready"]) == (0, True)
    applied(fresh, directory)
    wait_for(fresh, {f"finance/{pod}": "STRICT by finance/default" for pod in ("web", "payments")})
    assert web.get("payments", 8080).body
    assert cron.get("payments.finance", 8080).cut
    code, after = audited(fresh)
    assert (code, set(states(after).values())) == (0, {"strict"})
    assert after["policies"] == []


def test_a_front_door_stays_open_and_the_rest_becomes_strict(
    fresh: Mesh, pods: list[Client]
) -> None:
    web, payments, cron = pods
    server = {"namespace": "finance", "name": "payments", "port": 8080}
    webhook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "payments"},
        "webhooks": [{"name": "payments.example.com", "clientConfig": {"service": server}}],
    }
    fresh.write("webhook.yaml", document([webhook]))
    assert web.get("payments", 8080).body
    assert web.get("payments", 9090).body
    assert payments.get("web", 8080).body
    wait_seen(fresh, connections=3)
    eventually(
        lambda: "front door" in states(fresh.ask("audit")[0]).values(), what="the front door"
    )
    directory = fresh.home / "safe"
    code, report = audited(fresh, "--write-policy", str(directory))
    assert (code, report["verdict"], report["outside"]) == (1, "possible", ["legacy/cron"])

    applied(fresh, directory)
    wait_for(
        fresh,
        {
            "finance/payments": "STRICT by finance/payments-mtls",
            "finance/payments:8080": "PERMISSIVE by finance/payments-mtls",
            "finance/web": "STRICT by finance/web-mtls",
        },
    )
    assert cron.get("payments.finance", 9090).cut
    code, after = audited(fresh)
    assert (code, after["verdict"]) == (0, "none")
    assert states(after)["payments:8080"] == "left open"


def test_before_writing_into_a_followed_folder_it_asks(mesh: Mesh, web: Client) -> None:
    assert web.get("payments", 8080).body
    wait_seen(mesh, connections=1)
    before = set(mesh.directory.iterdir())
    command = ("audit", "--write-policy", str(mesh.directory))
    refused = mesh.troth(*command, check=False, input="n\n")
    assert refused.returncode == 1
    assert "is followed by the running mesh" in refused.stderr
    assert set(mesh.directory.iterdir()) == before
    mesh.troth(*command, "--yes", check=False)
    written = set(mesh.directory.iterdir()) - before
    assert written
    for file in written:
        mesh.delete(file.name)
    wait_for(mesh, {"finance/payments": "PERMISSIVE", "finance/web": "PERMISSIVE"})


def test_files_that_exist_are_not_overwritten(mesh: Mesh, web: Client) -> None:
    assert web.get("payments", 8080).body
    wait_seen(mesh, connections=1)
    directory = mesh.home / "safe"
    audited(mesh, "--write-policy", str(directory))
    file, *_ = directory.iterdir()
    file.write_text("mine")
    result = mesh.troth("audit", "--write-policy", str(directory), check=False)
    assert result.returncode == 2
    assert f"{file}: exists already" in result.stderr
    assert file.read_text() == "mine"


def test_a_namespace_of_the_local_mesh_is_asked_about_by_n(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    assert web.get("payments", 8080).body
    assert cron.get("payments.finance", 8080).body
    both = {"finance/web", "legacy/cron"}
    eventually(
        lambda: both <= {pair["source"] for pair in mesh.ask("audit")[0]["pairs"]},
        what="both of them",
    )
    status = json.loads(mesh.troth("status", "-n", "legacy", "-o", "json", check=False).stdout)
    assert {pod["namespace"] for pod in status["pods"]} == {"legacy"}
    said = mesh.troth("events", "-n", "legacy", "-o", "json").stdout
    assert {json.loads(line)["source"]["workload"] for line in said.splitlines()} == {"legacy/cron"}
    audit = json.loads(mesh.troth("audit", "-n", "legacy", "-o", "json", check=False).stdout)
    assert {pair["source"] for pair in audit["pairs"]} == {"legacy/cron"}
    explained = mesh.troth("explain", "payments", "-n", "finance", "-o", "json").stdout
    assert json.loads(explained)["workload"]["name"] == "payments"
    traced = mesh.troth("trace", "web", "payments:8080", "-n", "finance", "-o", "json").stdout
    assert json.loads(traced)["from"]["name"] == "finance/web"


@pytest.mark.parametrize("since", ["", "0h", "1", "1w", "-1h", "8d", "99999999s", "1h30m"])
def test_what_is_no_duration_is_wrong_use(host: Host, since: str) -> None:
    result = host.run(TROTH, "audit", "--since", since, check=False)
    assert result.returncode == 2
    assert "at most 7d" in result.stderr or "is not a duration" in result.stderr


def applied(mesh: Mesh, directory: Path) -> None:
    """Put the written policies among the manifests, having had them validated."""
    validated = mesh.troth("validate", "-f", str(directory), "-f", str(mesh.directory), "--strict")
    assert validated.returncode == 0
    for file in directory.iterdir():
        mesh.write(file.name, file.read_text())
