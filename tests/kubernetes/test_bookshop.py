"""docs/bookshop.md, as a new user follows it: 30 pods on three nodes, from plaintext to STRICT."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import Pod
from tests.e2e.harness import TROTH, eventually
from tests.rig.harness import Cluster
from tests.rig.person import Person

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

PAGE = "bookshop.md"
SHOP, OFFICE = "bookshop", "back-office"
POD_COUNT = 30


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster on which nothing is installed."""
    with pytest.MonkeyPatch.context() as patch, Cluster() as cluster:
        patch.setenv("PATH", f"{Path(TROTH).parent}:{os.environ['PATH']}")
        cluster.delete(CustomResourceDefinition, "peerauthentications.security.istio.io")
        yield cluster


def pods(cluster: Cluster, namespace: str = SHOP) -> dict[str, str]:
    """The addresses of a namespace's pods, by name."""
    return {
        each.metadata.name: each.status.podIP
        for each in cluster.client.list(Pod, namespace=namespace)
        if each.metadata and each.metadata.name and each.status and each.status.podIP
    }


def answers(cluster: Cluster, namespace: str, client: str, *urls: str) -> list[str]:
    """What a pod is answered, URL by URL, for as long as it is answered well."""
    script = "for url; do curl -sSf --max-time 10 $url || exit 1; echo; done"
    done = cluster.exec(namespace, client, "sh", "-c", script, "sh", *urls)
    return done.stdout.splitlines()


def test_a_shop_of_30_pods_is_locked_down_and_goes_on_working(cluster: Cluster) -> None:
    person = Person(cluster)
    person.follow("Install")
    person.follow("Start it", page=PAGE)
    addresses = pods(cluster)
    assert len(addresses) == POD_COUNT
    everyone = [f"http://{address}:8080" for address in addresses.values()]
    (report,) = pods(cluster, OFFICE)
    storefronts = [name for name in addresses if name.startswith("storefront")]
    whole_shop = ["http://storefront.bookshop:8080"] * 6

    def serves_all(namespace: str, client: str) -> bool:
        said = answers(cluster, namespace, client, *everyone, *whole_shop)
        walks = said[POD_COUNT:]
        return len(walks) == len(whole_shop) and all("(orders (ledger))" in walk for walk in walks)

    # A Deployment is available before the last of its pods is ready.
    eventually(lambda: serves_all(SHOP, storefronts[0]), what="the shop")
    eventually(lambda: serves_all(OFFICE, report), what="the shop as seen from the office")

    person.follow("Put it into the mesh", page=PAGE)
    assert serves_all(OFFICE, report)
    plan = person.follow("Ask what would break", page=PAGE, code=1)
    assert "Would be refused: connections of Deployment back-office/report" in plan

    person.follow("Lock it down", page=PAGE)
    assert all(answers(cluster, OFFICE, report, url) == [] for url in everyone)
    assert all(serves_all(SHOP, client) for client in storefronts)
    assert pods(cluster) == addresses, "no pod was started anew"
    assert person.follow("Check it", page=PAGE).startswith("3 of 3 nodes\n")
    status = json.loads(person.type("kubectl troth status -n bookshop -o json"))
    assert [node["enforces_all"] for node in status["nodes"]] == [True] * 3
    assert {(pod["captured"], pod["mode"]) for pod in status["pods"]} == {(True, "STRICT")}
