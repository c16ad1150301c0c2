"""`troth trace` on a real mesh: whatever is wrong, it says where, why and what to do."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.harness import PATIENCE_SECONDS, PYTHON, TROTH, Host, Mesh, eventually
from tests.e2e.manifests import document, namespace, policy, server, service
from tests.e2e.policies import apply

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

WEB = "spiffe://cluster.local/ns/finance/sa/web"
PAYMENTS = "spiffe://cluster.local/ns/finance/sa/payments"
VAULT = "spiffe://cluster.local/ns/finance/sa/vault"

_unready = server("finance/unready", "http:8080")
_unready[1]["spec"]["containers"][0]["readinessProbe"]["tcpSocket"]["port"] = 1

MANIFESTS = document(
    [
        namespace("finance", mesh=True),
        namespace("legacy", mesh=False),
        *server("finance/web", "http:8080"),
        *server("finance/payments", "http:8080", "echo:7000"),
        *server("finance/vault", "http:8080"),
        *_unready,
        *server("legacy/cron", "http:8080"),
        service("finance/payments", 8080),
        service("finance/payments-moved", 8080)
        | {"spec": {"selector": {"app": "payments"}, "ports": [{"port": 80, "targetPort": 8081}]}},
        service("finance/unready", 8080),
        service("finance/empty", 8080),
        service("finance/web", 8080),
        service("legacy/paying", 8080)
        | {
            "spec": {
                "type": "ExternalName",
                "externalName": "payments.finance.svc.cluster.local",
            }
        },
        service("legacy/elsewhere", 8080)
        | {"spec": {"type": "ExternalName", "externalName": "nowhere.invalid"}},
    ]
)


@pytest.fixture(scope="module")
def mesh(shared_host: Host) -> Iterator[Mesh]:
    with Mesh(shared_host, {"mesh.yaml": MANIFESTS}) as running:
        eventually(
            lambda: (
                (status := running.status())["ready"]
                and all(pod["ready"] or pod["name"] == "unready" for pod in status["pods"])
            ),
            what="all pods' readiness",
        )
        yield running


@pytest.fixture
def strict(mesh: Mesh) -> Iterator[None]:
    apply(
        mesh,
        policy("finance/strict", "STRICT"),
        modes={"finance/payments": "STRICT by finance/strict"},
    )
    yield
    apply(mesh, modes={"finance/payments": "PERMISSIVE"})


def trace(mesh: Mesh, *arguments: str) -> dict[str, Any]:
    """What it reports; the exit code has to fit the verdict."""
    result = mesh.troth("trace", *arguments, "-o", "json", check=False)
    assert result.stdout, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.returncode == (0 if report["verdict"] in {"accepted", "plaintext"} else 1)
    return report


def steps(report: dict[str, Any]) -> list[str]:
    return [f"{step['actor']}: {step['action']}" for step in report["handshake"]["steps"]]


def test_a_good_connection_is_shown_with_both_decisions_and_the_whole_handshake(
    mesh: Mesh,
) -> None:
    report = trace(mesh, "finance/web", "finance/payments:8080")
    assert report["schema"] == "troth/trace/v1"
    assert report["verdict"] == "accepted"
    assert (report["stopped_at"], report["remedy"]) == (None, None)
    assert report["from"]["identity"] == WEB
    assert report["to"]["service"] == "finance/payments"
    assert report["client"]["destination"] == "finance/payments"
    assert (report["client"]["tunnel"], report["client"]["expected"]) == (True, PAYMENTS)
    assert (report["server"]["mode"], report["server"]["plaintext"]) == ("PERMISSIVE", True)
    assert report["connection"]["reply"].endswith("payments 8080 /")
    assert report["connection"]["event"]["peer"] == WEB
    handshake = report["handshake"]
    assert handshake["schema"] == "troth/handshake/v1"
    assert handshake["verdict"] == "accepted"
    assert handshake["handshake"]["version"] == "TLS 1.3"
    assert handshake["handshake"]["group"] == "X25519MLKEM768"
    assert handshake["handshake"]["client_chain"][0]["spiffe_id"] == WEB
    assert handshake["handshake"]["server_chain"][0]["spiffe_id"] == PAYMENTS
    assert report["handshake_event"]["peer"] == WEB
    done = steps(report)
    assert done.index("server: CertificateRequest: ask for the client's") < done.index(
        "client: Certificate: show the client's chain"
    )


def test_the_text_tells_the_same_within_100_columns(mesh: Mesh) -> None:
    result = mesh.troth("trace", "finance/web", "finance/payments:8080")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "finance/web → finance/payments:8080"
    for beginning in ("from ", "to ", "client ", "server ", "connection ", "Process", "Status"):
        assert any(line.startswith(beginning) for line in lines), beginning
    assert "verdict     accepted by the tunnel" in lines


@pytest.mark.usefixtures("strict")
def test_strict_refuses_a_client_outside_the_mesh_and_names_the_policy(mesh: Mesh) -> None:
    report = trace(mesh, "legacy/cron", "finance/payments:8080")
    assert (report["verdict"], report["stopped_at"]) == ("refused", "server_proxy")
    assert report["server"]["mode"] == "STRICT"
    assert report["server"]["decided_by"]["policy"] == "finance/strict"
    assert report["connection"]["event"]["reason"] == "plaintext_to_strict"
    assert report["cause"] == "Plaintext, and finance/strict sets STRICT for namespace finance."
    assert "put namespace legacy in the mesh" in report["remedy"].lower()
    assert report["handshake"] is None
    assert "legacy/cron has no certificate to show" in report["no_handshake"]


@pytest.mark.usefixtures("strict")
def test_strict_refuses_what_comes_past_the_tunnel_and_not_what_comes_by_it(mesh: Mesh) -> None:
    past = trace(mesh, "finance/web", "finance/payments:8080", "--plaintext")
    assert (past["verdict"], past["stopped_at"]) == ("refused", "server_proxy")
    assert past["past_tunnel"]
    assert past["connection"]["event"]["reason"] == "plaintext_to_strict"
    assert "finance/strict" in past["cause"]
    assert trace(mesh, "finance/web", "finance/payments:8080")["verdict"] == "accepted"


@pytest.mark.parametrize("source", ["finance/web", "legacy/cron"])
def test_permissive_lets_plaintext_in_and_says_what_would_encrypt_it(
    source: str, mesh: Mesh
) -> None:
    report = trace(mesh, source, "finance/payments:8080", "--plaintext")
    assert (report["verdict"], report["stopped_at"]) == ("plaintext", None)
    assert report["connection"]["event"]["outcome"] == "plaintext"
    assert "PERMISSIVE by the default" in report["cause"]
    assert report["remedy"]


def test_disable_makes_no_handshake_and_says_so(mesh: Mesh) -> None:
    apply(
        mesh,
        policy("finance/off", "DISABLE", selector={"app": "payments"}),
        modes={"finance/payments": "DISABLE by finance/off"},
    )
    report = trace(mesh, "finance/web", "finance/payments:8080")
    apply(mesh, modes={"finance/payments": "PERMISSIVE"})
    assert (report["verdict"], report["client"]["tunnel"]) == ("plaintext", False)
    assert report["handshake"] is None
    assert report["no_handshake"].startswith("real traffic makes none: port 8080 of")
    assert "DISABLE by finance/off" in report["cause"]
    assert "PERMISSIVE or STRICT" in report["remedy"]


@pytest.mark.parametrize("source", ["finance/web", "legacy/cron"])
@pytest.mark.parametrize(
    ("flag", "reason", "alert"),
    [
        pytest.param("--no-certificate", "no_client_certificate", "certificate_required", id="no"),
        pytest.param("--expired", "certificate_expired", "certificate_expired", id="expired"),
        pytest.param("--foreign-ca", "unknown_authority", "unknown_ca", id="foreign"),
    ],
)
def test_an_impostor_is_refused_in_the_tunnel_with_the_reason_on_the_wire(
    source: str, flag: str, reason: str, alert: str, mesh: Mesh
) -> None:
    claim = [] if flag == "--no-certificate" else ["--claim", "finance/vault"]
    report = trace(mesh, source, "finance/payments:8080", flag, *claim)
    assert (report["verdict"], report["stopped_at"]) == ("refused", "tunnel")
    assert report["handshake_event"]["reason"] == reason
    assert report["claimed"] == (VAULT if claim else None)
    assert alert in report["handshake"]["reason"]
    assert report["handshake"]["stopped_at"] == "server: check the client's certificate"
    assert "showed" in report["cause"]
    assert report["remedy"].startswith("None here")
    # Beside it, the connection of the pod itself is what it always is.
    by_tunnel = source == "finance/web"
    assert report["connection"]["event"]["outcome"] == ("accepted" if by_tunnel else "plaintext")


@pytest.mark.parametrize(
    ("source", "peer"),
    [pytest.param("finance/web", WEB, id="tunnel"), pytest.param("legacy/cron", None, id="plain")],
)
def test_a_port_nobody_listens_on_is_told_with_those_that_are_there(
    source: str, peer: str | None, mesh: Mesh
) -> None:
    report = trace(mesh, source, "finance/payments:8081")
    assert (report["verdict"], report["stopped_at"]) == ("failed", "app")
    event = report["connection"]["event"]
    if peer is None:  # its pod refuses a client outside the mesh before Envoy is asked
        assert (event, report["connection"]["reached"]) == (None, "unreachable")
    else:
        assert (event["reason"], event["peer"]) == ("app_unreachable", peer)
    assert (
        "Nothing listens on port 8081 of finance/payments, where processes listen on"
        in (report["cause"])
    )
    assert "7000 and 8080." in report["cause"]
    assert "`troth logs finance/payments`" in report["remedy"]


def test_a_wrong_target_port_is_told_with_its_service(mesh: Mesh) -> None:
    report = trace(mesh, "finance/web", "finance/payments-moved:80")
    assert (report["verdict"], report["stopped_at"]) == ("failed", "app")
    assert (report["to"]["service"], report["client"]["port"]) == ("finance/payments-moved", 8081)
    assert "correct the targetPort of Service finance/payments-moved" in report["remedy"]


def test_an_app_that_listens_on_loopback_only_is_told_so(mesh: Mesh) -> None:
    with _program(mesh, "import http.server as h", "h.test(port=7001, bind='127.0.0.1')"):
        report = _until_told(mesh, 7001, "listens on port 7001 at 127.0.0.1 only")
    assert (report["verdict"], report["stopped_at"]) == ("failed", "app")
    assert "0.0.0.0" in report["remedy"]


def test_an_app_that_says_nothing_has_been_reached(mesh: Mesh) -> None:
    with _program(
        mesh,
        "import socket, time",
        "server = socket.create_server(('', 7002))",
        "kept = []",
        "while True: kept.append(server.accept())",
    ):
        report = _until_told(mesh, 7002, "The app has it and says nothing")
    assert report["verdict"] == "accepted"
    assert report["connection"]["reached"] == "silent"
    assert report["handshake"]["verdict"] == "undecided"
    assert report["handshake_event"]["outcome"] == "accepted"


def test_an_app_that_hangs_up_on_what_it_does_not_understand_has_refused_nobody(
    mesh: Mesh,
) -> None:
    with _program(
        mesh,
        "import socket",
        "server = socket.create_server(('::', 7003), family=socket.AF_INET6, dualstack_ipv6=True)",
        "while True:",
        "    client, _ = server.accept()",
        "    client.recv(1000)",
        "    client.close()",
    ):
        eventually(
            lambda: trace(mesh, "finance/web", "finance/payments:7003")["verdict"] == "accepted",
            what="the app",
        )
        report = trace(mesh, "finance/web", "finance/payments:7003")
    assert report["connection"]["reached"] == "closed"
    assert report["handshake"]["verdict"] == "accepted"
    assert report["handshake"]["reason"] == "each side trusts the other's certificate"


def test_what_troth_waits_for_by_choice_is_no_time_that_tls_took(mesh: Mesh) -> None:
    report = trace(mesh, "finance/web", "finance/payments:8080")
    (sent,) = (
        step["elapsed_ms"]
        for step in report["handshake"]["steps"]
        if (step["actor"], step["action"]) == ("client", "send data")
    )
    (finished,) = (
        step["elapsed_ms"]
        for step in report["handshake"]["steps"]
        if (step["actor"], step["action"][:8]) == ("client", "Finished")
    )
    # The server is given 200 ms to refuse before it is asked.
    assert sent - finished < 100


def test_a_dual_stack_service_is_dialled_as_an_app_dials_it(mesh: Mesh) -> None:
    program = "import socket; print(socket.getaddrinfo('payments', 8080, type=1)[0][4][0])"
    first = mesh.exec("finance/web", PYTHON, "-c", program).stdout.strip()
    assert trace(mesh, "finance/web", "finance/payments:8080")["to"]["address"] == first


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("finance/web", "payments"),
        ("legacy/cron", "payments.finance"),
        ("legacy/cron", "payments.finance.svc.cluster.local"),
        pytest.param("legacy/cron", "paying", id="ExternalName"),
    ],
)
def test_a_server_is_named_as_its_clients_name_it(source: str, name: str, mesh: Mesh) -> None:
    report = trace(mesh, source, f"{name}:8080")
    assert (report["to"]["name"], report["to"]["service"]) == (name, "finance/payments")
    assert report["connection"]["reply"].endswith("payments 8080 /")


def test_a_name_that_leads_out_of_the_mesh_to_nothing_is_told(mesh: Mesh) -> None:
    result = mesh.troth("trace", "legacy/cron", "elsewhere:8080", check=False)
    assert result.returncode == 1
    assert "elsewhere is ExternalName nowhere.invalid, which has no address" in result.stderr


def test_traces_are_told_of_and_count_as_nobodys_traffic(mesh: Mesh) -> None:
    def counted() -> tuple[object, object]:
        audit = json.loads(mesh.troth("audit", "-o", "json", check=False).stdout)
        why = json.loads(mesh.troth("why", "--count", "1000", "-o", "json").stdout)
        return audit["pairs"], why["refusals"]

    before = counted()
    told = len(mesh.events())
    for source, flags in (
        ("finance/web", []),
        ("finance/web", ["--plaintext"]),
        ("legacy/cron", ["--foreign-ca"]),
        ("finance/web", ["--no-certificate"]),
    ):
        trace(mesh, source, "finance/vault:8080", *flags)
    eventually(lambda: len(mesh.events()) >= told + 7, what="the reports")
    assert all(event["traced"] for event in mesh.events()[told:])
    assert counted() == before


@pytest.mark.parametrize("source", ["finance/web", "legacy/cron"])
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        pytest.param("empty", "its selector matches none", id="no pods"),
        pytest.param(
            "unready",
            "finance/unready: runs, but its readiness probe does not succeed",
            id="none ready",
        ),
    ],
)
def test_a_service_without_endpoints_is_told_with_its_pods(
    source: str, name: str, cause: str, mesh: Mesh
) -> None:
    report = trace(mesh, source, f"finance/{name}:8080")
    first = "client_proxy" if source == "finance/web" else "network"
    assert (report["verdict"], report["stopped_at"]) == ("failed", first)
    assert (report["client"], report["server"], report["to"]["endpoints"]) == (None, None, 0)
    assert f"No ready pod is behind port 8080 of Service finance/{name}" in report["cause"]
    assert cause in report["cause"]
    assert report["remedy"]


def test_a_target_outside_the_mesh_is_reached_in_plaintext(mesh: Mesh) -> None:
    report = trace(mesh, "finance/web", "legacy/cron:8080")
    assert (report["verdict"], report["connection"]["event"]) == ("plaintext", None)
    assert (report["client"]["tunnel"], report["server"]["mode"]) == (False, None)
    assert report["no_handshake"].startswith("there is no tunnel: legacy/cron is not in the mesh")
    assert "put legacy/cron in the mesh" in report["remedy"]


@pytest.mark.parametrize("source", ["finance/web", "legacy/cron"])
def test_a_port_that_is_closed_outside_the_mesh_is_told(source: str, mesh: Mesh) -> None:
    target = "legacy/cron:81"
    report = trace(mesh, source, target)
    assert (report["verdict"], report["stopped_at"]) == ("failed", "app")
    assert (
        "Nothing listens on port 81 of legacy/cron, where processes listen on 8080"
        in (report["cause"])
    )


def test_no_impostor_can_be_tried_where_there_is_no_tunnel(mesh: Mesh) -> None:
    report = trace(mesh, "finance/web", "legacy/cron:8080", "--expired")
    assert (report["verdict"], report["stopped_at"]) == ("failed", "tunnel")
    assert "No handshake could be made: there is no tunnel" in report["cause"]


def test_an_address_nobody_has_is_told(mesh: Mesh) -> None:
    report = trace(mesh, "finance/web", "10.244.200.200:80")
    assert (report["verdict"], report["stopped_at"]) == ("failed", "network")
    assert report["connection"]["event"]["reason"] == "unreachable"
    assert report["client"]["why"] == "10.244.200.200 is not a pod of the mesh"


@pytest.mark.parametrize("port", [15001, 15006, 15007])
def test_a_port_of_troths_own_leads_nowhere_and_it_says_why(port: int, mesh: Mesh) -> None:
    report = trace(mesh, "finance/web", f"finance/payments:{port}")
    assert report["verdict"] in {"refused", "failed"}
    assert f"No app listens on port {port}" in report["cause"]


def test_a_pod_that_calls_its_own_address_is_not_captured_and_it_says_so(mesh: Mesh) -> None:
    address = mesh.pod("finance/web")["addresses"][0]
    report = trace(mesh, "finance/web", f"{address}:8080")
    assert report["verdict"] == "plaintext"
    assert report["cause"] == "It never leaves the pod, so nothing captures it."
    assert trace(mesh, "finance/web", "finance/web:8080")["verdict"] == "accepted"


def test_a_server_with_another_identity_is_refused_and_both_names_are_told(mesh: Mesh) -> None:
    vault = mesh.pod("finance/vault")["addresses"][0]
    payments = mesh.pod("finance/payments")["addresses"][0]
    with _hijacked(mesh, "finance/web", payments, vault):
        report = trace(mesh, "finance/web", f"{payments}:8080")
    assert (report["verdict"], report["stopped_at"]) == ("refused", "tunnel")
    assert report["connection"]["event"]["reason"] == "wrong_server_identity"
    assert VAULT in report["cause"]
    assert "finance/payments" in report["cause"]
    assert report["handshake"]["verdict"] == "refused"
    assert report["handshake"]["stopped_at"] == "client: check chain, dates and SPIFFE ID"
    assert f"it is for {VAULT}, wanted {PAYMENTS}" in report["handshake"]["reason"]
    assert trace(mesh, "finance/web", "finance/payments:8080")["verdict"] == "accepted"


@pytest.mark.parametrize(
    ("source", "destination", "complaint"),
    [
        pytest.param(
            "finance/nobody",
            "finance/payments:8080",
            "no pod or workload is called 'finance/nobody'; there are: finance/payments,",
            id="client",
        ),
        pytest.param(
            "finance/web",
            "finance/nobody:8080",
            "is called 'finance/nobody'; there are: finance/empty, finance/payments,",
            id="server",
        ),
    ],
)
def test_a_name_nobody_has_is_told_with_those_there_are(
    source: str, destination: str, complaint: str, mesh: Mesh
) -> None:
    result = mesh.troth("trace", source, destination, "-o", "json", check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert complaint in result.stderr


def test_an_ipv6_address_is_traced_like_any(mesh: Mesh) -> None:
    address = next(a for a in mesh.pod("finance/payments")["addresses"] if ":" in a)
    report = trace(mesh, "finance/web", f"[{address}]:8080")
    assert (report["verdict"], report["to"]["address"]) == ("accepted", address)
    assert report["handshake"]["verdict"] == "accepted"


def test_without_envoy_it_says_that_envoy_is_gone(mesh: Mesh) -> None:
    with _envoy_kept_down(mesh):
        web = trace(mesh, "finance/web", "finance/payments:8080")
        cron = trace(mesh, "legacy/cron", "finance/payments:8080")
        impostor = trace(mesh, "legacy/cron", "finance/payments:8080", "--no-certificate")
    for report, stopped_at, port in (
        (web, "client_proxy", "port 15001 of finance/web"),
        (cron, "server_proxy", "port 15006 of finance/payments"),
    ):
        assert (report["verdict"], report["stopped_at"]) == ("failed", stopped_at)
        assert report["connection"]["reached"] == "unreachable"
        assert f"Nothing takes the connection at {port}" in report["cause"]
        assert "Without Envoy nothing passes" in report["cause"]
        assert "starts Envoy again by itself" in report["remedy"]
        assert report["handshake"] is None
    closed = "does not take connections at its tunnel port 15007: Connection refused"
    assert closed in web["no_handshake"]
    assert (impostor["verdict"], impostor["stopped_at"]) == ("failed", "tunnel")
    assert closed in impostor["cause"]
    eventually(
        lambda: trace(mesh, "finance/web", "finance/payments:8080")["verdict"] == "accepted",
        what="a good connection after Envoy's return",
    )


def test_a_stopped_envoy_is_not_taken_for_a_good_one(mesh: Mesh) -> None:
    envoy = mesh.on_node("pidof", "envoy").stdout.strip()
    mesh.on_node("kill", "-STOP", envoy)
    try:
        report = trace(mesh, "legacy/cron", "finance/payments:8080")
    finally:
        mesh.on_node("kill", "-CONT", envoy)
    assert (report["verdict"], report["stopped_at"]) == ("failed", "server_proxy")
    assert report["connection"]["reached"] == "silent"
    assert "no proxy reports what became of it" in report["cause"]


@contextlib.contextmanager
def _program(mesh: Mesh, *lines: str) -> Iterator[None]:
    """A program that runs beside the app of finance/payments."""
    process = mesh.start("finance/payments", PYTHON, "-c", "\n".join(lines))
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _until_told(mesh: Mesh, port: int, cause: str) -> dict[str, Any]:
    """The trace to a port of finance/payments that gives such a cause."""

    def told() -> dict[str, Any] | None:
        report = trace(mesh, "finance/web", f"finance/payments:{port}")
        return report if cause in report["cause"] else None

    report = eventually(told, what=cause)
    assert report is not None
    return report


@contextlib.contextmanager
def _hijacked(mesh: Mesh, client: str, server_address: str, other: str) -> Iterator[None]:
    """What ``client`` sends to the tunnel of one pod arrives at another's, as by a forged route."""
    netns = mesh.state / "netns" / mesh.pod(client)["uid"]
    enter = ("nsenter", f"--net={netns}", "nft")
    chain = "{ type nat hook output priority -101; policy accept; }"
    rule = f"ip daddr {server_address} tcp dport 15007 dnat to {other}"
    mesh.on_node(
        *enter,
        f"add table ip hijack; add chain ip hijack output {chain}; "
        f"add rule ip hijack output {rule}",
    )
    try:
        yield
    finally:
        mesh.on_node(*enter, "delete", "table", "ip", "hijack")


@contextlib.contextmanager
def _envoy_kept_down(mesh: Mesh) -> Iterator[None]:
    """Kill every Envoy that is started, before it can listen."""
    enough = mesh.home / "enough"
    kill = "for pid in $(pidof envoy); do kill -KILL $pid; done"
    process = mesh.host.start(
        *(TROTH, "exec", "--node", "--", "sh", "-c"),
        f'until [ -e "$0" ]; do {kill}; sleep 0.02; done',
        str(enough),
        plain=mesh.plain,
        env=mesh.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        restarts = mesh.status()["envoy"]["restarts"]
        eventually(lambda: mesh.status()["envoy"]["restarts"] > restarts + 1, what="Envoy's loss")
        yield
    finally:
        enough.touch()
        process.wait(PATIENCE_SECONDS)
        enough.unlink()
