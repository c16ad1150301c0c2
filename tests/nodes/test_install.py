"""docs/install.md on real nodes, as a person follows it, with kubectl and with Helm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import Namespace
from tests.e2e.harness import eventually
from tests.rig.mesh import Load
from tests.rig.nodes.cluster import LOAD
from tests.rig.nodes.installation import names_of_agents
from tests.rig.objects import find
from tests.rig.person import Person, commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.nodes.cluster import RealCluster

DEFINITIONS = ("peerauthentications.security.istio.io", "connectionreviews.troth.dev")
URL = "web.finance:8080"
NODES = ("node-1", "node-2")
RELEASE = "troth --namespace=troth-system"
WAIT = "--wait --timeout=90s"
CHANGE = "--set node.keepaliveSeconds=60"
AGENTS = "--selector=app.kubernetes.io/component=node"
TIMEOUT = "--timeout=90s"
TABLES = "nft list tables; for n in /run/netns/*; do nsenter --net=$n nft list tables; done"


@pytest.fixture(scope="module", autouse=True)
def namespaces(cluster: RealCluster) -> Iterator[None]:
    """Somebody's services, which know nothing of troth."""
    for namespace in ("finance", "legacy"):
        cluster.namespace(namespace)
    cluster.run("finance", "web", ("python3", "/app/hello.py", "web", "http:8080"), nodes=NODES)
    cluster.kubectl("expose", "deployment", "web", "--namespace=finance", "--port=8080")
    cluster.run("finance", "friend", nodes=("node-2",))
    cluster.run("legacy", "stranger", nodes=("node-2",))
    for namespace in ("finance", "legacy"):
        cluster.await_available(namespace)
    yield
    cluster.kubectl("delete", "namespace", "finance", "legacy", "--wait=false")


@pytest.fixture(autouse=True)
def _definitions(cluster: RealCluster) -> Iterator[None]:
    """Ends what the page leaves: the definitions, and the policies with them."""
    yield
    cluster.kubectl("delete", "crd", "--ignore-not-found", *DEFINITIONS)


@pytest.mark.timeout(600)  # all of the page
def test_the_page_is_followed_with_kubectl_from_the_check_to_the_end(cluster: RealCluster) -> None:
    person = Person(cluster)
    friend, stranger = cluster.pod("finance", "friend"), cluster.pod("legacy", "stranger")
    eventually(lambda: answers(cluster, "legacy", stranger), what="the service")
    person.follow("Check")
    person.follow("Install")
    person.follow("Put a namespace into the mesh")
    assert answers(cluster, "finance", friend)
    assert answers(cluster, "legacy", stranger)
    person.follow("Lock it down")
    person.follow("Ask why")
    assert not answers(cluster, "legacy", stranger)
    assert answers(cluster, "finance", friend)
    person.type("kubectl troth status")
    old = person.root()
    with Load(cluster, "finance", friend, URL, program=LOAD):
        person.follow("Replace the root")
    assert person.root() != old
    person.follow("Remove")
    assert answers(cluster, "legacy", stranger)
    assert answers(cluster, "finance", friend)
    cluster.await_gone(Namespace, "troth-system")
    for node in cluster.nodes.values():
        assert "troth" not in node.machine.run("sh", "-c", TABLES).stdout
        assert not list(node.file("/run/troth").iterdir())
    assert find(cluster.client, CustomResourceDefinition, DEFINITIONS[0]) is not None


@pytest.mark.timeout(600)  # the same once more
def test_helm_installs_upgrades_and_removes_troth_deleted_agents_come_back_and_no_request_fails(
    cluster: RealCluster,
) -> None:
    person = Person(cluster)
    friend, stranger = cluster.pod("finance", "friend"), cluster.pod("legacy", "stranger")
    for command in commands("Install", language="sh")[:3]:
        person.type(f"{command} {WAIT}" if command.startswith("helm") else command)
    person.follow("Put a namespace into the mesh")
    person.follow("Lock it down")
    assert answers(cluster, "finance", friend)
    assert not answers(cluster, "legacy", stranger)

    before = names_of_agents(cluster)
    with Load(cluster, "finance", friend, URL, program=LOAD):
        person.type("kubectl apply -f deploy/crds/connectionreviews.yaml")
        person.type(f"helm upgrade {RELEASE} deploy/chart {CHANGE} {WAIT}")
        person.type(commands("Upgrade", language="sh")[0])
        assert before.isdisjoint(names_of_agents(cluster))
        before |= names_of_agents(cluster)
        person.type(f"kubectl delete pods -n troth-system --wait=false {AGENTS}")
        eventually(lambda: before.isdisjoint(names_of_agents(cluster)), what="the next agents")
        eventually(
            lambda: before.isdisjoint(names_of_agents(cluster, ending=True)),
            what="the old ones' end",
        )
        person.type(f"kubectl wait pods -n troth-system {AGENTS} --for=condition=Ready {TIMEOUT}")
    assert not answers(cluster, "legacy", stranger)
    person.type("kubectl troth status")

    for command in commands("Remove")[:2]:
        person.type(command)
    person.type(f"helm uninstall {RELEASE} {WAIT}")
    assert answers(cluster, "legacy", stranger)
    assert answers(cluster, "finance", friend)
    person.type("kubectl delete namespace troth-system")


def answers(cluster: RealCluster, namespace: str, pod: str) -> bool:
    """Whether a pod gets an answer in plaintext, as far as it knows."""
    return cluster.fetch(namespace, pod, f"http://{URL}/") == "web 8080 /"
