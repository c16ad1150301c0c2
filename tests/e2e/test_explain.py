"""explain and plan, asked of a mesh that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.manifests import deployment, document, namespace, policy, server
from tests.e2e.policies import apply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        *deployment("finance/payments", "http:8080"),
        *server("legacy/cron"),
    ]
)


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {"all.yaml": MANIFESTS}


def report(mesh: Mesh, *arguments: str) -> dict[str, Any]:
    result = mesh.troth(*arguments, "-o", "json", check=False)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.parametrize(
    "name",
    ["finance/payments", "finance/payments-0", "finance/app=payments"],
    ids=["Deployment", "replica", "labels"],
)
def test_explain_without_files_asks_the_running_mesh(mesh: Mesh, name: str) -> None:
    apply(
        mesh,
        policy("finance/default", "STRICT"),
        modes={"finance/payments-0": "STRICT by finance/default"},
    )

    explanation = report(mesh, "explain", name)

    decider = {"scope": "namespace", "policy": "finance/default"}
    assert explanation["workload"]["spiffe_id"] == "spiffe://cluster.local/ns/finance/sa/payments"
    assert explanation["in_mesh"]
    assert explanation["decided_by"] == decider
    assert explanation["ports"] == {"8080": {"mode": "STRICT", "decided_by": decider}}


def test_explain_of_nobody_says_who_is_meant(mesh: Mesh) -> None:
    result = mesh.troth("explain", "finance/paymnts", check=False)

    assert result.returncode == 1
    assert "did you mean finance/payments?" in result.stderr
    assert result.stdout == ""


def test_plan_names_the_clients_that_were_seen_in_plaintext(mesh: Mesh, tmp_path: Path) -> None:
    apply(mesh, modes={"finance/payments-0": "PERMISSIVE"})
    address = mesh.pod("finance/payments")["addresses"][0]
    assert mesh.fetch("legacy/cron", f"http://{address}:8080/") is not None
    mesh.event(source="legacy/cron", port=8080, outcome="plaintext", side="server")
    strict = tmp_path / "strict.yaml"
    strict.write_text(document([policy("finance/default", "STRICT")]))

    plan = report(
        mesh, "plan", "-f", str(mesh.directory / "all.yaml"), "--with", str(strict), "--observed"
    )

    (breaks,) = plan["breaks"]
    (port,) = breaks["ports"]
    (seen,) = port["seen"]
    assert seen["source"] == "legacy/cron"
    assert (seen["destination"], seen["port"]) == ("finance/payments", 8080)
    assert seen["count"] >= 1
