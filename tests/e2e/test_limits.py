"""One pod can't have so many connections that there are none left for the others."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import PYTHON, Host, Mesh, eventually
from tests.e2e.manifests import document, namespace, server, service
from tests.e2e.policies import wait_serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.client import Client

pytestmark = pytest.mark.e2e

MOST = 20
ECHO = 7000

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        namespace("legacy", mesh=False),
        *server("finance/web"),
        *server("finance/teller"),
        *server("finance/payments", "http:8080", f"echo:{ECHO}"),
        *server("finance/ledger", "http:8080", f"echo:{ECHO}"),
        *server("finance/vault", "http:8080"),
        *server("legacy/cron"),
        service("finance/payments", 8080, ECHO),
        service("finance/ledger", 8080, ECHO),
        service("finance/vault", 8080),
    ]
)


@pytest.fixture(scope="module")
def mesh(shared_host: Host) -> Iterator[Mesh]:
    options = ("--max-connections-per-pod", str(MOST))
    with Mesh(shared_host, {"mesh.yaml": MANIFESTS}, options=options) as running:
        wait_serving(running)
        yield running


@pytest.fixture(scope="module")
def greedy(mesh: Mesh) -> Iterator[dict[str, int]]:
    """The teller keeps as many connections to the ledger as it can get, by the tunnel."""
    with holding(mesh, "finance/teller", "ledger", 2 * MOST) as got:
        yield got


@contextlib.contextmanager
def holding(mesh: Mesh, pod: str, host: str, count: int) -> Iterator[dict[str, int]]:
    """Keep as many connections from a pod to an echo server open as it can get of so many."""
    holder = mesh.start(
        pod,
        *(PYTHON, "-I", str(PROGRAMS / "holder.py"), host, str(ECHO), str(count)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    try:
        yield json.loads(holder.stdout.readline())
    finally:
        holder.communicate("")


def told(mesh: Mesh, **wanted: Any) -> dict[str, Any]:
    """What `troth why` says of the connections that were too many."""

    def find() -> dict[str, Any] | None:
        report = json.loads(mesh.troth("why", "--count", "1000", "-o", "json").stdout)
        wanted["reason"] = "too_many_connections"
        return next((r for r in report["refusals"] if wanted.items() <= r.items()), None)

    found = eventually(find, what=f"a refusal with {wanted}")
    assert found is not None
    return found


def test_a_pod_that_is_flooded_from_outside_refuses_what_is_too_much_and_nobody_else_suffers(
    mesh: Mesh, web: Client
) -> None:
    with holding(mesh, "legacy/cron", "payments.finance", 2 * MOST) as got:
        assert got == {"served": MOST, "cut": MOST}
        assert web.get("vault", 8080).body == "vault 8080 /"
        assert web.get("payments", 8080).body == "payments 8080 /"  # by the tunnel
        refusal = told(mesh, destination="finance/payments", count=MOST)
    assert (refusal["source"], refusal["outcome"]) == ("(unknown)", "failed")
    assert refusal["cause"] == (
        "finance/payments had as many connections that come in plaintext "
        "as one pod may have open at a time."
    )


def test_a_pod_that_connects_too_often_is_refused_and_nobody_else_suffers(
    mesh: Mesh, greedy: dict[str, int], web: Client
) -> None:
    assert greedy == {"served": MOST, "cut": MOST}
    assert web.get("vault", 8080).body == "vault 8080 /"
    refusal = told(mesh, source="finance/teller", count=MOST)
    assert refusal["destination"] == "(unknown)"
    assert refusal["cause"] == (
        "finance/teller had as many connections that leave it as one pod may have open at a time."
    )


def test_a_pod_that_has_as_many_tunnels_as_it_may_refuses_one_more(
    mesh: Mesh, greedy: dict[str, int], web: Client
) -> None:
    assert greedy["served"] == MOST
    assert web.get("ledger", 8080).cut
    refusal = told(mesh, destination="finance/ledger")
    assert "had as many connections that come by the tunnel" in refusal["cause"]


def test_what_was_too_much_is_one_event_for_many_connections(
    mesh: Mesh, greedy: dict[str, int]
) -> None:
    del greedy
    event = mesh.event(source="finance/teller", reason="too_many_connections")
    assert (event["side"], event["destination"]["address"]) == ("client", "")
