"""docs/conformance.md says what a real API server makes of manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.conformance import Case, cases
from tests.rig.harness import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

CASES = [each for each in cases() if each.server != "not asked"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=()) as cluster:
        for namespace in ("shop", "istio-system"):
            cluster.namespace(namespace)
        yield cluster


def verdict(cluster: Cluster, manifest: str) -> tuple[str, str]:
    """Whether `kubectl create` succeeds, which stores nothing here; and what it says."""
    plane = cluster.control_plane
    done = plane.machine.run(
        *(str(plane.binaries / "kubectl"), f"--kubeconfig={plane.kubeconfig()}"),
        *("create", "--dry-run=server", "-o", "json", "-f", "-"),
        input=manifest,
        check=False,
    )
    return ("refused" if done.returncode else "taken"), done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_an_api_server_judges_as_the_page_says(cluster: Cluster, case: Case) -> None:
    found, words = verdict(cluster, case.manifest)
    assert (found, words) == (case.server, words)


@pytest.mark.parametrize(
    "manifest",
    [
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\n"
        f"spec: {{ports: [{{name: '{name}', port: 80}}]}}\n"
        for name in ("80", "a--b", "a" * 63)
    ],
    ids=["digits", "dashes", "63 letters"],
)
def test_an_api_server_takes_any_dns_label_as_a_service_ports_name(
    cluster: Cluster, manifest: str
) -> None:
    found, words = verdict(cluster, manifest)
    assert (found, words) == ("taken", words)


@pytest.mark.parametrize("metadata", ["labels: {a: true}", "annotations: {a: 1.10}"])
def test_an_api_server_takes_only_strings_as_labels_and_annotations(
    cluster: Cluster, metadata: str
) -> None:
    found, _ = verdict(
        cluster,
        f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: a, namespace: shop, {metadata}}}}}",
    )
    assert found == "refused"


def test_kubectl_reads_json_objects_one_after_the_other(cluster: Cluster) -> None:
    one = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "%s"}}'
    found, words = verdict(cluster, (one % "first") + "\n" + (one % "second"))
    assert found == "taken"
    assert '"second"' in words
