"""What node agents answer to `troth why`, `audit`, `trace` and `events`, asked by reviews."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease
from tests.e2e.harness import TROTH, eventually
from tests.rig.control import in_thread, soon
from tests.rig.mesh import NAMESPACE, ClusterMesh

from troth.cli.app import run
from troth.cluster.contract import REPORT_LABEL, REVIEW_LIFETIME, report_lease
from troth.controller.objects import REVIEWS as SWEPT
from troth.controller.work import sweep_reviews
from troth.kube.client import ApiClient
from troth.kube.config import program_config
from troth.reviews import asker
from troth.reviews.objects import Question, ReviewSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.rig.harness import Cluster

pytestmark = pytest.mark.cluster

SHOP, LEGACY = "reviewed-shop", "reviewed-legacy"
WEB, API, FRIEND = f"{SHOP}/web", f"{SHOP}/api", f"{SHOP}/friend"
STRANGER = f"{LEGACY}/stranger"
TRACE = {"question": "Trace", "from": "friend", "to": WEB, "port": 8080}


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[ClusterMesh]:
    """Two servers, one of them STRICT, with a client in the mesh and one outside of it."""
    with ClusterMesh(cluster, keepalive_seconds=4) as running:
        running.namespace(SHOP)
        running.namespace(LEGACY, in_mesh=False)
        running.cluster.apply(
            {
                "apiVersion": "security.istio.io/v1",
                "kind": "PeerAuthentication",
                "metadata": {"namespace": SHOP, "name": "web-strict"},
                "spec": {
                    "selector": {"matchLabels": {"app": "web"}},
                    "mtls": {"mode": "STRICT"},
                },
            }
        )
        running.serve(SHOP, "web", "node-1")
        running.serve(SHOP, "api", "node-1")
        running.client(SHOP, "friend", "node-2")
        running.client(LEGACY, "stranger", "node-2")
        running.await_captured(SHOP, "web", "api", "friend")
        for name in ("web", "api"):
            running.service(SHOP, name)
        url = address(running, "web")
        eventually(lambda: running.get(LEGACY, "stranger", url) == "refused", what="STRICT")
        assert running.get(SHOP, "friend", url) == "web 8080 /"
        for client in ((LEGACY, "stranger"), (SHOP, "friend")):
            assert running.get(*client, address(running, "api")) == "api 8080 /"
        both = {(client, server) for client in (STRANGER, FRIEND) for server in (WEB, API)}
        eventually(lambda: connections(cluster) >= both, what="all of their events")
        yield running


def connections(cluster: Cluster) -> set[tuple[str, str]]:
    """The workloads at both ends of the connections that the agents tell of."""
    kubeconfig = cluster.control_plane.kubeconfig(outside=True)
    command = [TROTH, "events", "-n", SHOP, f"--kubeconfig={kubeconfig}", "-o", "json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    seen = map(json.loads, said.splitlines())
    return {(each["source"]["workload"], each["destination"]["workload"]) for each in seen}


def address(mesh: ClusterMesh, pod: str) -> str:
    status = mesh.cluster.kubectl(
        "get", "pod", pod, f"-n={SHOP}", "-o=jsonpath={.status.podIP}"
    ).strip()
    return f"{status}:8080"


class Asker:
    """Runs commands as somebody, and tells what they say."""

    def __init__(self, mesh: ClusterMesh, user: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.kubeconfig = mesh.cluster.control_plane.kubeconfig(user, outside=True)
        self._capsys = capsys
        self.complaint = ""

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        """The JSON of a command, or the list of it where there is one on each line."""
        self._capsys.readouterr()
        result = run([*arguments, f"--kubeconfig={self.kubeconfig}", "-o", "json"])
        said = self._capsys.readouterr()
        self.complaint = said.err
        assert result == code, said
        if arguments[0] == "events":
            return [json.loads(line) for line in said.out.splitlines()]
        return json.loads(said.out) if said.out else None


@pytest.fixture
def ask(mesh: ClusterMesh, capsys: pytest.CaptureFixture[str]) -> Asker:
    """As the administrator."""
    return Asker(mesh, "admin", capsys)


@pytest.fixture
def jane(mesh: ClusterMesh, capsys: pytest.CaptureFixture[str]) -> Iterator[Asker]:
    """As one who may view the shop and ask about it, and nothing else."""
    kubectl = mesh.cluster.kubectl
    for role in ("view", "troth-ask"):
        kubectl("create", "rolebinding", role, f"-n={SHOP}", f"--clusterrole={role}", "--user=jane")

    def may() -> bool:
        question = ("create", "connectionreviews.troth.dev", f"-n={SHOP}", "--as=jane")
        return kubectl("auth", "can-i", *question, check=False).strip() == "yes"

    eventually(may, what="the roles' effect")
    yield Asker(mesh, "jane", capsys)
    kubectl("delete", "rolebindings", "view", "troth-ask", f"-n={SHOP}")


def refusal(report: Any, source: str, destination: str) -> Any:
    """What is told of one pair; None if nothing is."""
    found = [
        each
        for each in report["refusals"]
        if (each["source"], each["destination"]) == (source, destination)
    ]
    return found[0] if found else None


_HOLD = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000)) as server:
    server.recv(1)
"""


# Not the link itself: on one machine, TCP knows the packets for a link that is down to be unsent.
_CUT = """
table netdev gone {
  chain ingress { type filter hook ingress device eth0 priority 0; policy drop; }
}
table inet gone {
  chain out { type filter hook output priority 0; oifname eth0 drop; }
}
"""


@pytest.mark.parametrize("namespace", [SHOP, LEGACY])
def test_why_tells_either_ends_namespace_who_was_refused_and_by_which_policy(
    ask: Asker, namespace: str
) -> None:
    report = ask("why", "-n", namespace)
    told = refusal(report, STRANGER, WEB)
    assert told["reason"] == "plaintext_to_strict"
    assert told["cause"] == f"Plaintext, and {SHOP}/web-strict sets STRICT for app=web."
    assert told["remedy"].startswith(f"Put namespace {LEGACY} in the mesh")
    assert report["unanswered"] == []


def test_why_tells_of_a_peer_that_vanished(mesh: ClusterMesh, ask: Asker) -> None:
    mesh.client(SHOP, "goner", "node-2")
    mesh.await_captured(SHOP, "goner")
    host, _, _ = address(mesh, "web").partition(":")
    with mesh.cluster.start(SHOP, "goner", *(sys.executable, "-c", _HOLD, host)):
        eventually(lambda: (f"{SHOP}/goner", WEB) in connections(mesh.cluster), what="a connection")
        sandbox = mesh.cluster.worker(SHOP, "goner").sandbox
        assert sandbox is not None
        cut = ["nsenter", f"--net={sandbox.netns}", "nft", "-f", "-"]
        subprocess.run(cut, input=_CUT, text=True, check=True)
        told = eventually(
            lambda: refusal(ask("why", "-n", SHOP), f"{SHOP}/goner", WEB), what="a word of it"
        )
        assert (told["outcome"], told["reason"]) == ("failed", "peer_vanished")
        mesh.cluster.kubectl("delete", "pod", "goner", f"-n={SHOP}")


def test_why_about_one_workload_leaves_the_others_out(ask: Asker) -> None:
    assert refusal(ask("why", "web", "-n", SHOP), STRANGER, WEB)
    assert ask("why", API)["refusals"] == []
    ask("why", "nobody", "-n", SHOP, code=1)
    assert f"'{SHOP}/nobody'" in ask.complaint


def test_why_names_what_the_kernel_of_a_pod_refuses_ahead_of_envoy(
    mesh: ClusterMesh, ask: Asker
) -> None:
    web = address(mesh, "web").partition(":")[0]
    for client, name, url, reason in (
        (FRIEND, f"{SHOP}/empty", f"{mesh.service(SHOP, 'empty')}:80", "no_endpoints"),
        (STRANGER, WEB, f"{web}:8099", "app_unreachable"),
    ):

        def told(client: str = client, name: str = name, url: str = url) -> Any:
            namespace, _, pod = client.partition("/")
            assert mesh.get(namespace, pod, url) == "refused"
            report = ask("why", "-n", SHOP)
            return next(
                (
                    each
                    for each in report["refusals"]
                    if (each["source"], each["destination"]) == (client, name)
                    and each["reason"] in {"no_endpoints", "app_unreachable"}
                ),
                None,
            )

        assert eventually(told, what=f"{client}'s refusal")["reason"] == reason


def test_audit_names_who_speaks_plaintext_and_who_is_ready(ask: Asker) -> None:
    report = ask("audit", "-n", SHOP, code=1)
    states = {
        each["name"]: each["ports"].get("8080", {}).get("state") for each in report["workloads"]
    }
    assert (states["web"], states["api"]) == ("strict", "plaintext")
    (api,) = (each for each in report["workloads"] if each["name"] == "api")
    assert [each["source"] for each in api["ports"]["8080"]["because_of"]] == [STRANGER]
    pairs = {(each["source"], each["destination"]): each for each in report["pairs"]}
    assert pairs[FRIEND, API]["tunnel"] >= 1
    assert pairs[STRANGER, WEB]["refused"] >= 1
    assert report["verdict"] == "seen"
    assert STRANGER in report["outside"]
    assert report["problems"] == []


def test_audit_says_to_whom_it_is_not_told_who_may_call(jane: Asker) -> None:
    report = jane("audit", "-n", SHOP, code=1)
    assert STRANGER not in report["outside"]
    assert {each["subject"] for each in report["problems"]} == {
        "apiservices.apiregistration.k8s.io",
        "customresourcedefinitions.apiextensions.k8s.io",
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "pods",
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
    }


def test_plan_names_the_clients_that_the_agents_have_seen(ask: Asker, tmp_path: Path) -> None:
    new = tmp_path / "strict.json"
    strict = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"namespace": SHOP, "name": "all"},
        "spec": {"mtls": {"mode": "STRICT"}},
    }
    new.write_text(json.dumps(strict))
    report = ask("plan", "--with", str(new), "--observed", code=1)
    seen = [each for group in report["breaks"] for port in group["ports"] for each in port["seen"]]
    assert {(each["source"], each["destination"]) for each in seen} == {(STRANGER, API)}


def test_events_are_those_of_the_namespace(ask: Asker) -> None:
    seen = ask("events", "-n", SHOP)
    assert [each["time"] for each in seen] == sorted(each["time"] for each in seen)
    ends = {(each["source"]["workload"], each["destination"]["workload"]) for each in seen}
    assert {(STRANGER, WEB), (FRIEND, WEB), (FRIEND, API)} <= ends
    # Of who isn't of the namespace no more is told than it could see itself.
    pods = {each["source"]["pod"] for each in seen} - {None}
    assert FRIEND in pods
    assert all(pod.startswith(f"{SHOP}/") for pod in pods)
    assert all(SHOP in str(each["source"]) + str(each["destination"]) for each in seen)


def test_following_events_tells_each_connection_once_as_it_comes(
    mesh: ClusterMesh, ask: Asker, tmp_path: Path
) -> None:
    # Tests that run in the background have it ignored, and so would what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    path = tmp_path / "events"
    command = (TROTH, "events", "-n", SHOP, "-f", f"--kubeconfig={ask.kubeconfig}", "-o", "json")

    def told() -> list[str]:
        return path.read_text().splitlines()

    with path.open("w") as file, subprocess.Popen(command, stdout=file) as following:
        try:
            eventually(lambda: len(told()) == len(ask("events", "-n", SHOP)), what="what there was")
            before = len(told())
            assert mesh.get(SHOP, "friend", address(mesh, "api")) == "api 8080 /"
            eventually(lambda: len(told()) > before, what="the new connection")
            mesh.get(SHOP, "friend", address(mesh, "web"))
            eventually(lambda: len(told()) > before + 1, what="the next one")
        finally:
            following.send_signal(signal.SIGINT)
        assert following.wait() == 130
    assert len(set(told())) == len(told()) == before + 2
    ends = [json.loads(line)["destination"]["workload"] for line in told()[before:]]
    assert ends == [API, WEB]


@pytest.mark.parametrize("to", ["web:8080", "web:80"])
def test_a_trace_between_two_nodes_tells_what_the_servers_proxy_did(ask: Asker, to: str) -> None:
    found = ask("trace", "friend", to, "-n", SHOP)
    assert found["verdict"] == "accepted"
    event = found["connection"]["event"]
    assert (event["side"], event["peer"]) == (
        "server",
        f"spiffe://cluster.local/ns/{SHOP}/sa/friend",
    )
    assert found["handshake"]["verdict"] == "accepted"
    assert found["handshake_event"]["outcome"] == "accepted"


def test_a_trace_from_outside_the_mesh_is_refused_for_the_reason_that_the_server_gives(
    ask: Asker,
) -> None:
    found = ask("trace", STRANGER, f"{WEB}:8080", "-n", LEGACY, code=1)
    assert (found["verdict"], found["stopped_at"]) == ("refused", "server_proxy")
    assert f"{SHOP}/web-strict sets STRICT" in found["cause"]


@pytest.mark.parametrize("flag", ["--no-certificate", "--foreign-ca"])
def test_an_impostor_is_refused_in_the_tunnel(ask: Asker, flag: str) -> None:
    found = ask("trace", FRIEND, f"{WEB}:8080", flag, code=1)
    assert (found["verdict"], found["stopped_at"]) == ("refused", "tunnel")


def test_an_impostor_may_claim_any_service_account_and_learns_of_none(ask: Asker) -> None:
    found = ask("trace", FRIEND, f"{WEB}:8080", "--foreign-ca", "--claim=bank/vault", code=1)
    assert found["claimed"] == "spiffe://cluster.local/ns/bank/sa/vault"
    assert (found["verdict"], found["stopped_at"]) == ("refused", "tunnel")


def test_traces_between_two_nodes_count_as_nobodys_traffic(ask: Asker) -> None:
    def counted() -> tuple[object, object]:
        audited = ask("audit", "-n", SHOP, code=1)["pairs"]
        refused = ask("why", "-n", SHOP)["refusals"]
        return sorted(audited, key=str), refused

    before = counted()
    ask("trace", FRIEND, f"{API}:8080")
    ask("trace", FRIEND, f"{API}:8080", "--plaintext")
    ask("trace", FRIEND, f"{API}:8080", "--no-certificate", code=1)
    assert counted() == before
    assert any(event["traced"] for event in ask("events", "-n", SHOP))


def test_no_agent_can_make_an_expired_certificate(ask: Asker) -> None:
    ask("trace", FRIEND, f"{WEB}:8080", "--expired", code=2)
    assert "no agent of a cluster has" in ask.complaint


def test_who_may_ask_about_one_namespace_may_not_ask_about_another(jane: Asker) -> None:
    assert refusal(jane("why", "-n", SHOP), STRANGER, WEB)
    jane("why", "-n", LEGACY, code=1)
    assert "no permission to list pods" in jane.complaint


def test_connecting_as_a_pod_needs_the_right_to_run_commands_in_it(jane: Asker) -> None:
    jane("trace", "friend", "web:8080", "-n", SHOP, code=1)
    assert "create pods/exec" in jane.complaint


def test_a_node_that_does_not_answer_is_told(mesh: ClusterMesh, ask: Asker) -> None:
    ghost = Lease(
        metadata=ObjectMeta(
            namespace=NAMESPACE, name=report_lease("ghost"), labels={REPORT_LABEL: "node"}
        ),
        spec=LeaseSpec(holderIdentity="ghost"),
    )
    mesh.cluster.client.create(ghost)
    try:
        report = ask("why", "-n", SHOP, "--all-nodes", "--timeout=4", code=1)
        assert [each["node"] for each in report["unanswered"]] == ["ghost"]
        assert refusal(report, STRANGER, WEB)
        assert "node ghost did not answer" in ask.complaint
        audited = ask("audit", "-n", SHOP, "--all-nodes", "--timeout=4", code=1)
        assert (audited["ready"], audited["policies"]) == (False, [])
    finally:
        mesh.cluster.client.delete(Lease, report_lease("ghost"), namespace=NAMESPACE)


def test_why_names_a_network_policy_that_blocks_the_tunnel(mesh: ClusterMesh, ask: Asker) -> None:
    mesh.cluster.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": SHOP, "name": "web-only"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 8080}]}]},
        }
    )
    try:
        (conflict,) = ask("why", "-n", SHOP)["conflicts"]
        assert conflict["where"] == f"NetworkPolicy {SHOP}/web-only"
        assert "but not 15007" in conflict["what"]
    finally:
        mesh.cluster.kubectl("delete", "networkpolicy", "web-only", f"-n={SHOP}")


def test_no_question_is_left_behind(mesh: ClusterMesh, ask: Asker) -> None:
    ask("why", "-n", SHOP)
    assert mesh.cluster.kubectl("get", "connectionreviews", "-A", "-o=name") == ""


async def test_the_controller_clears_away_what_was_left_behind_when_its_time_is_over(
    mesh: ClusterMesh,
) -> None:
    name = await in_thread(make, mesh, {"nodeName": "nowhere", "question": "Events"})
    config = await in_thread(mesh.control.config)
    client = ApiClient(config)

    async def there() -> bool:
        listed = await in_thread(
            mesh.cluster.kubectl, "get", "connectionreviews", f"-n={SHOP}", "-o=name"
        )
        return name in listed

    try:
        now = datetime.now(UTC)
        await sweep_reviews(client, now=now)
        assert await there()
        await sweep_reviews(client, now=now + REVIEW_LIFETIME + timedelta(seconds=2))
        assert not await there()
    finally:
        await client.aclose()


async def test_the_controller_reads_nothing_of_reviews_but_their_metadata(
    mesh: ClusterMesh,
) -> None:
    name = await in_thread(make, mesh, {"nodeName": "nowhere", "question": "Events"})
    server = ApiClient(await in_thread(mesh.control.config))
    seen: list[dict[str, Any]] = []

    def read(raw: msgspec.Raw) -> Any:
        seen.append(json.loads(bytes(raw)))
        return SWEPT.read(raw)

    try:
        await server.list(msgspec.structs.replace(SWEPT, read=read))
        assert name in {each["metadata"]["name"] for each in seen}
        assert not any(each.keys() & {"spec", "status"} for each in seen)
    finally:
        await server.aclose()
        await in_thread(mesh.cluster.kubectl, "delete", "connectionreview", name, f"-n={SHOP}")


async def test_an_answer_is_taken_away_though_others_are_still_awaited(mesh: ClusterMesh) -> None:
    kubeconfig = mesh.cluster.control_plane.kubeconfig("admin", outside=True)
    nodes = ("node-1", "nowhere")
    specs = [ReviewSpec(node_name=node, question=Question.EVENTS) for node in nodes]
    seen: list[set[str]] = []

    def one_is_left() -> bool:
        columns = ("-o=custom-columns=:.spec.nodeName", "--no-headers")
        listed = mesh.cluster.kubectl("get", "connectionreviews", f"-n={SHOP}", *columns)
        seen.append(set(listed.split()))
        return seen[-2:] == [{"nowhere"}] * 2  # once may be before the other is made

    async with asker.Asker(program_config(kubeconfig, otherwise=""), SHOP) as asking:
        task = asyncio.create_task(asking.ask(specs, seconds=60))
        await soon(one_is_left, what="the removal of the answered one")
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": "Route", "to": WEB}, "need from"),
        ({**TRACE, "question": "Totals"}, "from does not belong to the question Totals"),
        ({"question": "Why"}, "Unsupported value"),
        ({"question": "Events", "limit": 0}, "greater than or equal to 1"),
        ({"question": "Events", "nodeName": ""}, "at least 1 chars"),
        ({**TRACE, "claim": API}, "claim belongs to credentials foreign-ca"),
        ({**TRACE, "claim": API, "credentials": "own"}, "claim belongs to credentials foreign-ca"),
    ],
)
def test_a_question_that_makes_no_sense_is_not_taken(
    mesh: ClusterMesh, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(Exception, match=words):
        make(mesh, {"nodeName": "node-1", **change})


def test_a_question_cannot_be_changed(mesh: ClusterMesh) -> None:
    name = make(mesh, {"nodeName": "nowhere", "question": "Events"})
    change = json.dumps({"spec": {"nodeName": "node-1"}})
    said = mesh.cluster.kubectl(
        *("patch", "connectionreview", name, f"-n={SHOP}", "--type=merge", "-p", change),
        check=False,
    )
    assert "patched" not in said
    mesh.cluster.kubectl("delete", "connectionreview", name, f"-n={SHOP}")


def test_only_pods_of_the_reviews_namespace_are_connected_from(
    answered: Callable[[dict[str, Any]], Any],
) -> None:
    status = answered(
        {
            "nodeName": "node-2",
            "question": "Connect",
            "from": "stranger",
            "to": WEB,
            "port": 8080,
        }
    )
    (condition,) = status["conditions"]
    assert (condition["type"], condition["status"]) == ("Answered", "False")
    assert f"is called {SHOP}/stranger" in condition["message"]


def test_a_name_that_leads_nowhere_does_not_disclose_what_there_is(
    answered: Callable[[dict[str, Any]], Any],
) -> None:
    question = {"question": "Route", "from": "friend", "to": "kube-system/none", "port": 1}
    status = answered({"nodeName": "node-2", **question})
    assert LEGACY not in json.dumps(status)


@pytest.fixture
def answered(mesh: ClusterMesh) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Put a question about the shop by hand, and give the status it gets."""
    made: list[str] = []

    def put(spec: dict[str, Any]) -> Any:
        made.append(make(mesh, spec))
        mesh.cluster.kubectl(
            *("wait", f"connectionreview/{made[-1]}", f"-n={SHOP}", "--timeout=50s"),
            "--for=jsonpath={.status.conditions}",
        )
        text = mesh.cluster.kubectl("get", "connectionreview", made[-1], f"-n={SHOP}", "-o=json")
        return json.loads(text)["status"]

    yield put
    for name in made:
        mesh.cluster.kubectl("delete", "connectionreview", name, f"-n={SHOP}")


def make(mesh: ClusterMesh, spec: dict[str, Any]) -> str:
    """Make a review in the shop; its name."""
    review = {
        "apiVersion": "troth.dev/v1alpha1",
        "kind": "ConnectionReview",
        "metadata": {"generateName": "test-", "namespace": SHOP},
        "spec": spec,
    }
    return mesh.cluster.kubectl(
        "create", "-f=-", "-o=jsonpath={.metadata.name}", input=json.dumps(review)
    )
