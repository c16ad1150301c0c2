"""What the modes of PeerAuthentication do to real connections, from inside and outside the mesh."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.e2e.client import PROGRAMS
from tests.e2e.harness import PYTHON, Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import Events, apply

if TYPE_CHECKING:
    from tests.e2e.client import Client

pytestmark = pytest.mark.e2e

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        namespace("test", mesh=True),
        namespace("legacy", mesh=False),
        *server("finance/web", "http:8080"),
        *server("finance/payments", "http:8080", "http:9090", "udp:5300"),
        *server("finance/outsider", "http:8080", labels={"troth.dev/mesh": "disabled"}),
        *server("test/box", "http:8080"),
        *server("legacy/cron", "http:8080"),
        service("finance/web", 8080),
        service("finance/payments", 8080, (80, 8080), (443, "http-9090")),
        service("finance/outsider", 8080),
        service("test/box", 8080),
        service("legacy/cron", 8080),
    ]
)


@pytest.fixture(scope="module")
def manifests() -> dict[str, str]:
    return {"mesh.yaml": MANIFESTS}


STRICT_FINANCE = policy("finance/default", "STRICT")


def test_a_plain_http_request_to_a_service_in_a_namespace_with_strict_is_rejected(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    apply(mesh, STRICT_FINANCE, modes={"finance/payments": "STRICT by finance/default"})
    events = Events(mesh)
    plain = cron.get("payments.finance", 8080)
    assert plain.cut, plain
    assert web.get("payments", 8080).body == "payments 8080 /"
    refused = events.one(source="legacy/cron", source_port=plain.port, outcome="refused")
    assert refused["reason"] == "plaintext_to_strict"
    assert (refused["destination"], refused["port"]) == ("finance/payments", 8080)
    assert (refused["mode"], refused["decided_by"]["policy"]) == ("STRICT", "finance/default")
    accepted = events.one(source="finance/web", destination="finance/payments", port=8080)
    assert accepted["outcome"] == "accepted"
    assert accepted["peer"] == "spiffe://cluster.local/ns/finance/sa/web"


def test_a_policy_in_namespace_test_does_not_touch_a_service_of_another_namespace(
    mesh: Mesh, cron: Client
) -> None:
    apply(mesh, policy("test/default", "STRICT"), modes={"test/box": "STRICT by test/default"})
    assert cron.get("box.test", 8080).cut
    assert cron.get("payments.finance", 8080).body == "payments 8080 /"


def test_strict_with_selector_app_payments_guards_payments_only(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    guard = policy("finance/guard", "STRICT", selector={"app": "payments"})
    apply(mesh, guard, modes={"finance/payments": "STRICT by finance/guard"})
    assert cron.get("payments.finance", 8080).cut
    assert cron.get("payments.finance", 443).cut
    assert cron.get("web.finance", 8080).body == "web 8080 /"
    assert web.get("payments", 8080).body == "payments 8080 /"


def test_permissive_accepts_both(mesh: Mesh, web: Client, cron: Client) -> None:
    allow = policy("finance/default", "PERMISSIVE")
    apply(mesh, allow, modes={"finance/payments": "PERMISSIVE by finance/default"})
    events = Events(mesh)
    plain = cron.get("payments.finance", 8080)
    assert plain.body == "payments 8080 /"
    assert web.get("payments", 8080).body == "payments 8080 /"
    passed = events.one(source="legacy/cron", source_port=plain.port)
    assert (passed["outcome"], passed["peer"]) == ("plaintext", None)
    accepted = events.one(source="finance/web", destination="finance/payments")
    assert (accepted["outcome"], accepted["tls_version"]) == ("accepted", "TLSv1.3")


def test_disable_makes_clients_of_the_mesh_go_without_the_tunnel(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    off = policy("finance/default", "DISABLE")
    apply(mesh, off, modes={"finance/payments": "DISABLE by finance/default"})
    events = Events(mesh)
    assert web.get("payments", 8080).body == "payments 8080 /"
    assert cron.get("payments.finance", 8080).body == "payments 8080 /"
    inside = events.one(source="finance/web", destination="finance/payments")
    assert (inside["outcome"], inside["tls_version"]) == ("plaintext", "")
    assert (inside["mode"], inside["decided_by"]["policy"]) == ("DISABLE", "finance/default")


def test_a_policy_in_the_root_namespace_holds_for_the_whole_mesh(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    apply(
        mesh,
        policy("istio-system/default", "STRICT"),
        modes={
            "finance/payments": "STRICT by istio-system/default",
            "test/box": "STRICT by istio-system/default",
        },
    )
    assert cron.get("payments.finance", 8080).cut
    assert cron.get("box.test", 8080).cut
    assert web.get("box.test", 8080).body == "box 8080 /"
    assert web.get("cron.legacy", 8080).body == "cron 8080 /"


@pytest.mark.parametrize("exception", ["PERMISSIVE", "DISABLE"])
def test_a_port_may_be_the_exception_of_a_strict_workload(
    exception: str, mesh: Mesh, web: Client, cron: Client
) -> None:
    guard = policy("finance/guard", "STRICT", selector={"app": "payments"}, ports={9090: exception})
    apply(
        mesh,
        guard,
        modes={
            "finance/payments:8080": "STRICT by finance/guard",
            "finance/payments:9090": f"{exception} by finance/guard",
        },
    )
    events = Events(mesh)
    assert cron.get("payments.finance", 8080).cut
    assert cron.get("payments.finance", 443).body == "payments 9090 /"
    assert web.get("payments", 8080).body == "payments 8080 /"
    assert web.get("payments", 443).body == "payments 9090 /"
    metrics = events.one(source="finance/web", port=9090)
    assert metrics["outcome"] == ("plaintext" if exception == "DISABLE" else "accepted")


def test_a_strict_port_behind_disable_is_reached_by_the_tunnel_alone(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    # Istio's clients ask for the mesh's mode here and are refused: istio/istio#56084.
    apply(
        mesh,
        policy("istio-system/default", "DISABLE"),
        policy("finance/guard", None, selector={"app": "payments"}, ports={9090: "STRICT"}),
        modes={
            "finance/payments:8080": "DISABLE by istio-system/default",
            "finance/payments:9090": "STRICT by finance/guard",
        },
    )
    events = Events(mesh)
    assert cron.get("payments.finance", 443).cut
    assert cron.get("payments.finance", 8080).body == "payments 8080 /"
    assert web.get("payments", 443).body == "payments 9090 /"
    assert web.get("payments", 8080).body == "payments 8080 /"
    assert events.one(source="finance/web", port=9090)["outcome"] == "accepted"
    assert events.one(source="finance/web", port=8080)["outcome"] == "plaintext"


def test_the_mode_is_that_of_the_pods_port_and_not_of_the_services(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    apply(
        mesh,
        policy("finance/guard", None, selector={"app": "payments"}, ports={8080: "STRICT"}),
        modes={"finance/payments:8080": "STRICT by finance/guard"},
    )
    assert cron.get("payments.finance", 80).cut
    assert cron.get("payments.finance", 443).body == "payments 9090 /"
    assert web.get("payments", 80).body == "payments 8080 /"


def test_the_pods_ipv6_address_obeys_strict_too(mesh: Mesh, web: Client, cron: Client) -> None:
    apply(mesh, STRICT_FINANCE, modes={"finance/payments": "STRICT by finance/default"})
    events = Events(mesh)
    address = next(a for a in mesh.pod("finance/payments")["addresses"] if ":" in a)
    plain = cron.get(address, 8080)
    assert plain.cut, plain
    assert web.get(address, 8080).body == "payments 8080 /"
    refused = events.one(source="legacy/cron", source_port=plain.port)
    assert (refused["reason"], refused["destination"]) == (
        "plaintext_to_strict",
        "finance/payments",
    )
    assert events.one(source="finance/web", port=8080)["outcome"] == "accepted"


def test_a_services_ipv6_address_obeys_strict_too(mesh: Mesh, web: Client, cron: Client) -> None:
    apply(mesh, STRICT_FINANCE, modes={"finance/payments": "STRICT by finance/default"})
    found = mesh.exec("legacy/cron", "getent", "ahostsv6", "payments.finance", check=True)
    address = found.stdout.split()[0]
    assert cron.get(address, 8080).cut
    assert web.get(address, 8080).body == "payments 8080 /"


def test_udp_is_left_alone(mesh: Mesh, web: Client, cron: Client) -> None:
    apply(mesh, STRICT_FINANCE, modes={"finance/payments": "STRICT by finance/default"})
    for address in mesh.pod("finance/payments")["addresses"]:
        assert cron.udp(address, 5300, "hello").body == "hello"
        assert web.udp(address, 5300, "hello").body == "hello"


def test_a_pod_reaches_itself_in_every_way(mesh: Mesh, payments: Client) -> None:
    apply(mesh, STRICT_FINANCE, modes={"finance/payments": "STRICT by finance/default"})
    for address in ("127.0.0.1", "::1", *mesh.pod("finance/payments")["addresses"], "payments"):
        assert payments.get(address, 8080).body == "payments 8080 /", address


def test_a_pod_that_opted_out_takes_and_sends_plaintext(
    mesh: Mesh, web: Client, cron: Client
) -> None:
    apply(mesh, STRICT_FINANCE, modes={"finance/payments": "STRICT by finance/default"})
    assert cron.get("outsider.finance", 8080).body == "outsider 8080 /"
    assert web.get("outsider", 8080).body == "outsider 8080 /"
    assert mesh.fetch("finance/outsider", "http://payments:8080/") is None
    outsider = mesh.pod("finance/outsider")
    assert (outsider["in_mesh"], outsider["captured"]) == (False, False)
    assert "troth.dev/mesh: disabled" in outsider["why"]


def test_pods_outside_the_mesh_are_reached_in_plaintext(mesh: Mesh, web: Client) -> None:
    apply(mesh, STRICT_FINANCE, modes={"finance/payments": "STRICT by finance/default"})
    assert web.get("cron.legacy", 8080).body == "cron 8080 /"
    for address in mesh.pod("legacy/cron")["addresses"]:
        assert web.get(address, 8080).body == "cron 8080 /"


def test_a_service_without_such_a_port_refuses_at_once(web: Client) -> None:
    reply = web.get("payments", 8081)
    assert reply.cut, reply


def test_pods_reach_the_host(mesh: Mesh, web: Client, cron: Client) -> None:
    server = mesh.host.start(PYTHON, str(PROGRAMS / "hello.py"), "host", "http:8099")
    try:
        for client in (web, cron):
            eventually(lambda: client.get("169.254.77.1", 8099).body == "host 8099 /")  # noqa: B023 - called at once
    finally:
        server.kill()
        server.wait()


def test_the_commands_say_what_the_other_tests_ask_the_control_socket_for(
    mesh: Mesh, web: Client
) -> None:
    assert web.get("payments", 8080).body
    mesh.event(source="finance/web", port=8080)
    status = json.loads(mesh.troth("status", "-o", "json").stdout)
    assert status["pods"] == mesh.status()["pods"]
    events = [json.loads(line) for line in mesh.troth("events", "-o", "json").stdout.splitlines()]
    assert events == mesh.events()[: len(events)] != []
    said = mesh.troth("exec", "finance/web", "--", "cat", "/etc/hosts").stdout
    assert said == mesh.exec("finance/web", "cat", "/etc/hosts", check=True).stdout
    said = mesh.troth("exec", "--node", "--", "cat", "/proc/net/dev").stdout
    assert "troth0:" in said
    assert "troth0:" in mesh.on_node("cat", "/proc/net/dev").stdout
