"""troth on three nodes of a real cluster: real Envoys, tunnels across nodes, a real API server."""

from __future__ import annotations

import functools
import itertools
import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
from lightkube.resources.core_v1 import Pod
from tests.e2e.harness import eventually
from tests.rig.harness import at_address
from tests.rig.mesh import ClusterMesh
from tests.rig.objects import PeerAuthentication
from tests.rig.person import Person
from tests.rig.probes import http_status

from troth.cluster.contract import SILENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.harness import Cluster

pytestmark = pytest.mark.cluster

_numbers = itertools.count(1)

_CURL_NO_CONNECTION = 7


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Iterator[ClusterMesh]:
    with ClusterMesh(cluster) as running:
        yield running


@pytest.fixture
def shop(mesh: ClusterMesh) -> Iterator[str]:
    """A namespace in the mesh."""
    name = mesh.namespace(f"shop-{next(_numbers)}")
    yield name
    mesh.cluster.client.deletecollection(Pod, namespace=name)


@pytest.fixture
def outside(mesh: ClusterMesh) -> Iterator[str]:
    """A namespace outside of the mesh."""
    name = mesh.namespace(f"outside-{next(_numbers)}", in_mesh=False)
    yield name
    mesh.cluster.client.deletecollection(Pod, namespace=name)


def address(pod: dict[str, object]) -> str:
    status = pod["status"]
    assert isinstance(status, dict)
    return str(status["podIP"])


def answers(mesh: ClusterMesh, namespace: str, url: str, expected: str) -> bool:
    """Whether the pod ``friend`` gets an answer from a URL."""
    return mesh.get(namespace, "friend", url) == expected


def test_a_policy_is_enforced_on_all_nodes(mesh: ClusterMesh, shop: str, outside: str) -> None:
    servers = [mesh.serve(shop, f"web-{n}", f"node-{n}") for n in (1, 2, 3)]
    mesh.client(shop, "friend", "node-1")
    mesh.client(outside, "stranger", "node-1")
    mesh.await_captured(shop, "web-1", "web-2", "web-3", "friend")

    def all_answers(namespace: str, client: str) -> list[str]:
        return [mesh.get(namespace, client, f"{address(pod)}:8080") for pod in servers]

    served = [f"web-{n} 8080 /" for n in (1, 2, 3)]
    assert all_answers(shop, "friend") == served
    assert all_answers(outside, "stranger") == served
    mesh.policy(shop, "STRICT")
    eventually(
        lambda: all_answers(outside, "stranger") == ["refused"] * 3, what="STRICT on all nodes"
    )
    assert all_answers(shop, "friend") == served
    mesh.policy(shop, "PERMISSIVE")
    eventually(lambda: all_answers(outside, "stranger") == served, what="PERMISSIVE on all nodes")


@pytest.mark.parametrize("mode", ["PERMISSIVE", "STRICT"])
def test_a_namespace_joins_and_leaves_the_mesh_under_load_without_a_failed_request(
    mesh: ClusterMesh, mode: str
) -> None:
    namespace = mesh.namespace(f"busy-{mode.lower()}", in_mesh=False)
    mesh.policy(namespace, mode)
    pods = [mesh.serve(namespace, f"web-{n}", f"node-{n}") for n in (1, 2)]
    mesh.client(namespace, "near", "node-1")
    mesh.client(namespace, "far", "node-3")
    processes = [mesh.cluster.worker(namespace, f"web-{n}").containers["app"].pid for n in (1, 2)]
    with (
        mesh.load(namespace, "near", f"{address(pods[0])}:8080"),
        mesh.load(namespace, "far", f"{address(pods[0])}:8080"),
        mesh.load(namespace, "far", f"{address(pods[1])}:8080"),
    ):
        mesh.label(namespace, in_mesh=True)
        mesh.await_captured(namespace, "web-1", "web-2", "near", "far")
        time.sleep(4)  # the load goes on, with the grace period and its end
        with (  # also by connections of the tunnel
            mesh.load(namespace, "near", f"{address(pods[0])}:8080"),
            mesh.load(namespace, "far", f"{address(pods[1])}:8080"),
        ):
            mesh.label(namespace, in_mesh=False)
            mesh.await_captured(namespace, "web-1", "web-2", "near", "far", captured=False)
            eventually(
                lambda: not any(mesh.redirects(namespace, name) for name in ("web-1", "far")),
                what="the release",
            )
            time.sleep(2)  # longer than Envoy leaves what a removed chain has
    assert processes == [
        mesh.cluster.worker(namespace, f"web-{n}").containers["app"].pid for n in (1, 2)
    ]
    mesh.cluster.client.deletecollection(Pod, namespace=namespace)


def test_running_pods_that_join_are_strict_in_the_end_and_plain_again_when_they_leave(
    mesh: ClusterMesh, outside: str
) -> None:
    namespace = mesh.namespace("later", in_mesh=False)
    mesh.policy(namespace, "STRICT")
    server = mesh.serve(namespace, "web", "node-2")
    mesh.client(namespace, "friend", "node-1")
    mesh.client(outside, "stranger", "node-1")
    url = f"{address(server)}:8080"
    assert mesh.get(outside, "stranger", url) == "web 8080 /"
    mesh.label(namespace, in_mesh=True)
    eventually(lambda: mesh.get(outside, "stranger", url) == "refused", what="STRICT")
    assert mesh.get(namespace, "friend", url) == "web 8080 /"
    mesh.label(namespace, in_mesh=False)
    eventually(lambda: mesh.get(outside, "stranger", url) == "web 8080 /", what="plaintext")
    eventually(lambda: not mesh.redirects(namespace, "web"), what="the release")
    assert mesh.get(namespace, "friend", url) == "web 8080 /"
    mesh.cluster.client.deletecollection(Pod, namespace=namespace)


def test_nodes_and_controller_show_metrics(mesh: ClusterMesh, shop: str, outside: str) -> None:
    server = mesh.serve(shop, "web", "node-1")
    mesh.client(outside, "stranger", "node-2")
    mesh.await_captured(shop, "web")
    mesh.policy(shop, "STRICT")
    url = f"{address(server)}:8080"
    eventually(lambda: mesh.get(outside, "stranger", url) == "refused", what="STRICT")
    eventually(lambda: mesh.metrics()["troth_enforced_policies"] >= 1, what="the policy's status")
    assert mesh.metrics()["troth_leading"] == 1
    assert mesh.metrics()["troth_nodes"] == len(mesh.agents)
    assert mesh.metrics("node-1")["troth_captured_pods"] >= 1
    assert mesh.metrics("node-1")["troth_envoy_connected"] == 1


def test_services_are_balanced_by_envoy_and_reached_by_the_tunnel(
    mesh: ClusterMesh, shop: str
) -> None:
    mesh.policy(shop, "STRICT")
    for n in (1, 2):
        mesh.serve(shop, f"web-{n}", f"node-{n}", labels={"app": "web"})
    mesh.client(shop, "friend", "node-3")
    mesh.await_captured(shop, "web-1", "web-2", "friend")
    service = mesh.service(shop, "web")
    for n in (1, 2):
        eventually(
            functools.partial(answers, mesh, shop, service, f"web-{n} 8080 /"),
            what=f"an answer of web-{n}",
        )


def test_a_service_is_refused_while_nothing_serves_it(mesh: ClusterMesh, shop: str) -> None:
    mesh.client(shop, "friend", "node-3")
    mesh.await_captured(shop, "friend")
    service = mesh.service(shop, "web")

    def is_refused(port: int) -> bool:
        url = f"http://{service}:{port}/"
        done = mesh.cluster.exec(shop, "friend", "curl", "-sS", "--max-time", "5", url)
        return done.returncode == _CURL_NO_CONNECTION

    eventually(lambda: is_refused(80), what="the refusal without an endpoint")
    mesh.serve(shop, "web", "node-1")
    eventually(lambda: answers(mesh, shop, service, "web 8080 /"), what="the answer")
    assert is_refused(81)
    mesh.agents["node-3"].terminate()
    mesh.cluster.client.delete(Pod, "web", namespace=shop)
    mesh.agents["node-3"].start()
    mesh.await_agent("node-3")
    eventually(lambda: is_refused(80), what="the refusal by the next agent")
    mesh.serve(shop, "web-2", "node-1", labels={"app": "web"})
    eventually(lambda: answers(mesh, shop, service, "web-2 8080 /"), what="the other answer")


def test_an_app_sees_its_clients_address_by_tunnel_and_in_plaintext(
    mesh: ClusterMesh, shop: str, outside: str
) -> None:
    server = mesh.serve(shop, "web", "node-2")
    service = mesh.service(shop, "web")
    for node in ("node-1", "node-2"):
        friend = mesh.client(shop, f"friend-of-{node}", node)
        stranger = mesh.client(outside, f"stranger-of-{node}", node)
        mesh.await_captured(shop, "web", f"friend-of-{node}")
        for target in (f"{address(server)}:8080", service):
            for namespace, pod in ((shop, friend), (outside, stranger)):
                name = pod["metadata"]["name"]
                seen = mesh.get(namespace, name, f"{target}/who")
                assert seen.removeprefix("::ffff:") == address(pod), (name, target)


def test_a_service_is_reached_by_the_tunnel_also_at_its_external_and_its_load_balancers_address(
    mesh: ClusterMesh, shop: str
) -> None:
    mesh.policy(shop, "STRICT")
    mesh.serve(shop, "web", "node-1")
    mesh.client(shop, "friend", "node-3")
    mesh.await_captured(shop, "web", "friend")
    mesh.balancer(shop, "web", external="198.51.100.7", balancer="198.51.100.8")
    for address in ("198.51.100.7", "198.51.100.8"):
        eventually(
            functools.partial(answers, mesh, shop, address, "web 8080 /"), what=f"web at {address}"
        )
        assert mesh.get(shop, "friend", f"{address}:8080") == "refused"  # not the service's port


def test_an_address_given_to_another_pod_is_never_taken_for_its_former_one(
    mesh: ClusterMesh, shop: str
) -> None:
    mesh.policy(shop, "STRICT")
    mesh.client(shop, "friend", "node-1")
    for name in ("old", "new", "newest"):
        pod = mesh.serve(shop, name, "node-2", annotations=at_address("10.244.2.200"))
        assert address(pod) == "10.244.2.200"
        mesh.await_captured(shop, name, "friend")
        eventually(
            functools.partial(answers, mesh, shop, "10.244.2.200:8080", f"{name} 8080 /"),
            what=f"an answer of {name}",
        )
        mesh.cluster.delete(Pod, name, shop)


def test_a_node_whose_watches_break_goes_on_and_catches_up(
    mesh: ClusterMesh, shop: str, outside: str
) -> None:
    server = mesh.serve(shop, "web", "node-2")
    mesh.client(shop, "friend", "node-1")
    mesh.client(outside, "stranger", "node-1")
    mesh.await_captured(shop, "web", "friend")
    url = f"{address(server)}:8080"
    with mesh.load(shop, "friend", url):
        with mesh.cluster.nodes["node-2"].cut_off():
            mesh.policy(shop, "STRICT")
            agent = mesh.agents["node-2"]
            eventually(lambda: not mesh.readiness(agent)[0], what="the trouble")
            assert mesh.get(outside, "stranger", url) == "web 8080 /"
        eventually(lambda: mesh.get(outside, "stranger", url) == "refused", what="STRICT")


def test_a_policy_that_got_past_the_schema_takes_no_good_one_down(
    mesh: ClusterMesh, shop: str, outside: str
) -> None:
    server = mesh.serve(shop, "web", "node-2")
    mesh.client(outside, "stranger", "node-1")
    mesh.await_captured(shop, "web")
    url = f"{address(server)}:8080"
    with mesh.without_schema():
        mesh.policy(shop, "NONSENSE", name="aaa")
        mesh.policy(shop, "STRICT")
        eventually(lambda: mesh.get(outside, "stranger", url) == "refused", what="the good policy")

        def seen() -> set[str]:
            return {mesh.report(f"node-{n}")["policies"] for n in (1, 2, 3)}

        eventually(lambda: len(seen()) == 1, what="all nodes of one mind")
        before = seen()
        mesh.policy(shop, "BROKEN")  # of this one the last good version counts
        eventually(lambda: not seen() & before, what="reports of all nodes")
        assert mesh.get(outside, "stranger", url) == "refused"
        for name in ("aaa", "default"):
            mesh.cluster.delete(PeerAuthentication, name, shop)


def test_the_kubelets_probes_of_a_strict_pod_tell_whether_the_app_listens(
    mesh: ClusterMesh, shop: str
) -> None:
    mesh.policy(shop, "STRICT")
    mesh.serve(shop, "http", "node-1")
    listens = {"readinessProbe": {"tcpSocket": {"port": 8080}, "failureThreshold": 1}}
    mesh.run(shop, "tcp", "node-1", {**mesh.server("tcp"), **listens})
    mesh.await_captured(shop, "http", "tcp")
    mesh.run(shop, "deaf", "node-1", listens, ready=False)
    eventually(lambda: mesh.is_running(shop, "deaf"), what="a pod that does not listen")
    for name, ready in (("http", True), ("tcp", True), ("deaf", False)):
        assert mesh.is_ready(shop, name) is ready


def test_only_the_nodes_own_processes_reach_a_strict_pod_without_the_tunnel(
    mesh: ClusterMesh, shop: str
) -> None:
    server = mesh.serve(shop, "web", "node-1")
    mesh.await_captured(shop, "web")
    port = mesh.node_port(shop, "web")
    one, two = mesh.cluster.nodes["node-1"], mesh.cluster.nodes["node-2"]
    beside = mesh.cluster.control_plane.machine
    pod = (address(server), 8080)

    def reached() -> list[bool]:
        return [
            http_status(machine.netns, target) == HTTPStatus.OK
            for machine, target in (
                (one.machine, pod),
                (two.machine, pod),
                (beside, pod),
                (beside, (one.address, port)),  # masqueraded: looks like the node's own
                (beside, (two.address, port)),
            )
        ]

    eventually(lambda: all(reached()), what="plaintext for all")
    mesh.policy(shop, "STRICT")
    eventually(lambda: not any(reached()[1:]), what="STRICT")
    assert reached() == [True, False, False, False, False]


def test_an_agent_that_ends_leaves_its_pods_closed_and_the_next_one_takes_them_over(
    mesh: ClusterMesh, shop: str, outside: str
) -> None:
    mesh.policy(shop, "STRICT")
    server = mesh.serve(shop, "web", "node-2")
    leaver = mesh.serve(shop, "leaver", "node-2", labels={"app": "leaver"})
    mesh.client(shop, "friend", "node-1")
    mesh.client(outside, "stranger", "node-1")
    mesh.await_captured(shop, "web", "leaver", "friend")
    url = f"{address(server)}:8080"
    assert mesh.get(shop, "friend", url) == "web 8080 /"

    mesh.agents["node-2"].kill()
    assert mesh.get(outside, "stranger", url) == "refused"
    assert mesh.get(shop, "friend", url) == "refused"
    mesh.cluster.client.patch(
        Pod, "leaver", {"metadata": {"labels": {"troth.dev/mesh": "disabled"}}}, namespace=shop
    )

    mesh.agents["node-2"].start()
    eventually(functools.partial(answers, mesh, shop, url, "web 8080 /"), what="the next agent")
    assert mesh.get(outside, "stranger", url) == "refused"
    assert mesh.is_captured(shop, "web")
    mesh.await_captured(shop, "leaver", captured=False)
    eventually(lambda: not mesh.redirects(shop, "leaver"), what="the release")
    assert mesh.get(outside, "stranger", f"{address(leaver)}:8080") == "leaver 8080 /"


def silent_nodes(person: Person) -> list[tuple[str, str]]:
    """What ``troth status`` says of nodes whose agents are silent."""
    status = json.loads(person.type("kubectl troth status -o json || true"))
    return [(node["name"], node["why"]) for node in status["nodes"] if not node["alive"]]


def test_an_agent_that_falls_silent_or_ends_is_named_by_policies_and_status_until_it_is_back(
    mesh: ClusterMesh, shop: str
) -> None:
    person = Person(mesh.cluster)
    mesh.policy(shop, "STRICT")

    def enforced(status: str, words: str = "") -> None:
        """Wait for a policy to say so."""

        def is_so() -> bool:
            found = mesh.cluster.get(PeerAuthentication, "default", shop).get("status", {})
            return any(
                (each["type"], each["status"]) == ("Enforced", status) and words in each["message"]
                for each in found.get("conditions", ())
            )

        eventually(is_so, what=f"Enforced {status} {words}")

    enforced("True")
    agent = mesh.agents["node-3"]
    agent.pause()
    try:
        enforced("False", f"2 of 3 nodes; waiting for node-3 ({SILENCE})")
        eventually(lambda: silent_nodes(person) == [("node-3", SILENCE)], what="the status")
    finally:
        agent.resume()
    enforced("True")
    agent.terminate()
    try:
        enforced("False", f"2 of 3 nodes; waiting for node-3 ({SILENCE})")
    finally:
        agent.start()
    enforced("True")


def test_the_mark_of_an_earlier_sandbox_is_worth_nothing_and_taken_away(
    mesh: ClusterMesh, shop: str
) -> None:
    person = Person(mesh.cluster)
    own = address(mesh.client(shop, "moved", "node-2"))
    mesh.await_captured(shop, "moved")

    def move(to: str) -> None:
        status = json.dumps({"status": {"podIP": to, "podIPs": [{"ip": to}]}})
        options = (f"--namespace={shop}", "--subresource=status", "--type=merge")
        mesh.cluster.kubectl("patch", "pod", "moved", *options, "-p", status)

    mesh.agents["node-2"].kill()
    move("10.244.2.250")
    status = json.loads(person.type(f"kubectl troth status -n {shop} -o json", code=1))
    assert [(pod["name"], pod["captured"]) for pod in status["pods"]] == [("moved", False)]
    assert mesh.is_captured(shop, "moved")  # as it says itself

    mesh.agents["node-2"].start()
    mesh.await_captured(shop, "moved", captured=False)
    move(own)
    mesh.await_captured(shop, "moved")


def test_a_container_runtime_that_cannot_be_asked_is_named_and_keeps_nobody_from_being_ready(
    mesh: ClusterMesh, shop: str
) -> None:
    mesh.client(shop, "friend", "node-3")
    mesh.await_captured(shop, "friend")
    is_ready, words = mesh.readiness(mesh.agents["node-3"])
    assert is_ready
    (note,) = json.loads(words)["notes"]
    assert note.startswith("container runtime at /run/none.sock: ListPodSandbox: UNAVAILABLE")
    eventually(lambda: note in mesh.report("node-3").get("trouble", ""), what="the report of it")


def test_an_agent_without_rights_says_which_ones_it_lacks(mesh: ClusterMesh) -> None:
    agent = mesh.agent("node-3", account="stranger", run_dir="/run/stranger")
    agent.start()
    try:

        def said() -> str:
            ready, text = mesh.readiness(agent)
            return "" if ready else text

        for right in ("list pods", "list peerauthentications.security.istio.io", "configmaps"):
            eventually(lambda right=right: right in said(), what=right)  # type: ignore[misc]  # bound at once
        assert "have it given by a ClusterRole" in said()
        assert mesh.readiness(mesh.agents["node-3"])[0]
        assert agent.alive
    finally:
        agent.terminate()


def test_a_new_root_comes_into_force_on_all_nodes_under_load_without_a_failed_request(
    mesh: ClusterMesh, shop: str
) -> None:
    mesh.policy(shop, "STRICT")
    server = mesh.serve(shop, "web", "node-2")
    mesh.client(shop, "friend", "node-1")
    mesh.client(shop, "other", "node-3")
    mesh.await_captured(shop, "web", "friend", "other")
    url = f"{address(server)}:8080"
    (before,) = mesh.report("node-2")["roots"]
    with mesh.load(shop, "friend", url), mesh.load(shop, "other", url):
        mesh.rotate()
        mesh.await_new_root(before)
