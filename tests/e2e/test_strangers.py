"""Who has proved no identity can't take the tunnel's places from those who have one."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import PYTHON, eventually
from tests.e2e.manifests import document, namespace, policy, server, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.e2e.client import Client
    from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

ECHO = 7000
TUNNEL = 15007
FLOOD = 1300
"""A quarter of what Envoy may have open where 20,000 open files are allowed, and some more."""

FLOODED = ("payments", "ledger", "vault", "teller")


@pytest.fixture(scope="module")
def manifests() -> Mapping[str, str]:
    objects = [
        namespace("finance", mesh=True),
        namespace("legacy", mesh=False),
        policy("finance/default", "STRICT"),
        *server("finance/web"),
        *server("finance/newcomer"),
        *server("finance/desk", "http:8080"),
        *server("legacy/cron"),
        *server("legacy/intruder"),
        service("finance/desk", 8080),
    ]
    for name in FLOODED:
        objects += server(f"finance/{name}", "http:8080", f"echo:{ECHO}")
        objects.append(service(f"finance/{name}", 8080, ECHO))
    return {"mesh.yaml": document(objects)}


@contextlib.contextmanager
def flood(mesh: Mesh, pod: str, *addresses: str) -> Iterator[Callable[[], int]]:
    """Silent connections from a pod to the tunnels at some addresses.

    What it gives says how many were open at most at a time to one of them.
    """
    process = mesh.start(
        pod,
        *(PYTHON, "-I", str(PROGRAMS / "silent.py"), str(TUNNEL), str(FLOOD), *addresses),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    stdin, stdout = process.stdin, process.stdout
    stdout.readline()

    def most() -> int:
        stdin.write("\n")
        stdin.flush()
        counts: list[int] = json.loads(stdout.readline())
        return max(counts)

    try:
        yield most
    finally:
        process.communicate("")


def address(mesh: Mesh, name: str, *, version: int = 4) -> str:
    """Of a pod of namespace finance."""
    addresses: list[str] = mesh.pod(f"finance/{name}")["addresses"]
    return next(each for each in addresses if (":" in each) is (version == 6))


def refusal(mesh: Mesh, **wanted: Any) -> dict[str, Any]:
    """What `troth why` says of strangers that came too often."""
    wanted |= {"reason": "too_many_unproved"}

    def find() -> dict[str, Any] | None:
        report = json.loads(mesh.troth("why", "--count", "1000", "-o", "json").stdout)
        return next((each for each in report["refusals"] if wanted.items() <= each.items()), None)

    found = eventually(find, what=f"a refusal with {wanted}")
    assert found is not None
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_a_flood_of_silent_connections_takes_no_place_from_peers(
    version: int, mesh: Mesh, web: Client
) -> None:
    target = address(mesh, "payments", version=version)
    with flood(mesh, "legacy/cron", target) as most:
        for _ in range(50):
            assert web.get("payments", 8080).body == "payments 8080 /"
        assert most() < 100


def test_four_floods_from_one_pod_leave_the_nodes_places_to_others(mesh: Mesh, web: Client) -> None:
    targets = [address(mesh, name) for name in FLOODED]
    with flood(mesh, "legacy/cron", *targets) as most:
        for name in (*FLOODED, "desk"):
            for _ in range(20):
                assert web.get(name, 8080).body == f"{name} 8080 /"
        assert most() < 100


@pytest.mark.parametrize("version", [4, 6])
def test_a_newcomers_hundreds_of_connections_at_once_all_succeed(version: int, mesh: Mesh) -> None:
    host = address(mesh, "vault", version=version)
    burst = (PYTHON, "-I", str(PROGRAMS / "burst.py"), host, str(ECHO), "400")
    result = mesh.exec("finance/newcomer", *burst)
    assert json.loads(result.stdout) == {"served": 400, "wrong": []}, result.stderr


def test_a_newcomer_gets_in_while_others_flood(mesh: Mesh) -> None:
    burst = (PYTHON, "-I", str(PROGRAMS / "burst.py"), "teller", str(ECHO), "100")
    with flood(mesh, "legacy/cron", address(mesh, "teller")):
        result = mesh.exec("finance/newcomer", *burst)
        assert json.loads(result.stdout) == {"served": 100, "wrong": []}, result.stderr


@pytest.mark.parametrize("version", [4, 6])
def test_why_names_the_flooder_and_nobody_else(version: int, mesh: Mesh) -> None:
    target = address(mesh, "desk", version=version)
    source = mesh.pod("legacy/intruder")["addresses"]
    with flood(mesh, "legacy/intruder", target):
        found = refusal(mesh, source="legacy/intruder", destination_address=target)
    assert found["source_address"] in source
    assert (found["destination"], found["port"]) == ("finance/desk", TUNNEL)
    assert (found["outcome"], found["detail"]) == ("refused", "by itself")
    assert found["count"] > 100
    assert found["cause"] == (
        "legacy/intruder came to the tunnel of finance/desk, by itself, more often than an address "
        "without a proven identity may."
    )
    assert found["remedy"].startswith(f"Find out what runs at {found['source_address']}")
    text = mesh.troth("why", "finance/desk").stdout
    assert "legacy/intruder came to the tunnel of finance/desk" in text
    report = json.loads(mesh.troth("why", "--count", "1000", "-o", "json").stdout)
    named = {each["source"] for each in report["refusals"] if each["reason"] == found["reason"]}
    assert named <= {"legacy/intruder", "legacy/cron"}
