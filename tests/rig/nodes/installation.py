"""troth on a cluster of real nodes, as its chart installs it with the CNI plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from lightkube.resources.core_v1 import Namespace, Pod
from tests.deploy import chart
from tests.e2e.harness import PATIENCE_SECONDS, eventually
from tests.rig.nodes import images

from troth.mesh.model import MESH_LABEL

if TYPE_CHECKING:
    from tests.rig.nodes.cluster import RealCluster
    from tests.rig.nodes.node import RealNode

NAMESPACE = chart.NAMESPACE
AGENTS = "daemonset/troth-node"
CONFIGURATION = "/etc/cni/net.d/0-troth.conflist"

_DEFINITIONS = ("peerauthentications.security.istio.io", "connectionreviews.troth.dev")


class Installation:
    """troth with its plugin on all nodes, for as long as the block runs.

    Args:
        cluster: Where.
    """

    def __init__(self, cluster: RealCluster) -> None:
        self.cluster = cluster
        self._made: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self.cluster.namespace(NAMESPACE)
        for definition in sorted((chart.DEPLOY / "crds").glob("*.yaml")):
            self.cluster.apply(definition.read_text())
        self.apply()
        self.await_rollout()
        for node in self.cluster.nodes.values():
            await_plugin(node)
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.kubectl("label", "namespaces", "--all", f"{MESH_LABEL}-")
        self.cluster.delete(Namespace, NAMESPACE)
        for node in self.cluster.nodes.values():
            await_plugin(node, there=False)
        for each in self._made:
            if not each["metadata"].get("namespace"):
                self.cluster.kubectl("delete", each["kind"], each["metadata"]["name"])
        for name in _DEFINITIONS:
            self.cluster.delete(CustomResourceDefinition, name)

    def apply(self, tag: str = "") -> None:
        """Apply the chart; no waiting.

        Args:
            tag: The image's, if not its own.
        """
        values = {"controller": {"replicas": 1}, "image": {"tag": tag}}
        made = [each for path in chart.templates() for each in chart.objects(path.name, values)]
        for each in made:
            self.cluster.apply(each)
        self._made = made

    def await_rollout(self) -> None:
        """Wait until all runs as it was applied last; nodes follow each other."""
        for what in ("deployment/troth-controller", AGENTS):
            status = ("rollout", "status", what, f"--namespace={NAMESPACE}")
            self.cluster.kubectl(*status, timeout=len(self.cluster.nodes) * PATIENCE_SECONDS)

    def restart_agents(self) -> None:
        """Have all agents replaced, one after another; no waiting."""
        self.cluster.kubectl("rollout", "restart", AGENTS, f"--namespace={NAMESPACE}")

    def delete_agents(self, *, at_once: bool = False) -> None:
        """Delete all agents' pods; no waiting.

        Args:
            at_once: Without any time to end in.
        """
        forced = ("--grace-period=0", "--force") if at_once else ()
        self.cluster.kubectl(
            *("delete", "pods", "--selector=app.kubernetes.io/component=node", "--wait=false"),
            *(f"--namespace={NAMESPACE}", *forced),
        )


def names_of_agents(cluster: RealCluster, *, ending: bool = False) -> set[str]:
    """The agents' pods that are there to stay, or also those that are to end."""
    label: dict[str, Any] = {"app.kubernetes.io/component": "node"}
    return {
        str(pod.metadata.name)
        for pod in cluster.client.list(Pod, namespace=NAMESPACE, labels=label)
        if pod.metadata is not None and (ending or pod.metadata.deletionTimestamp is None)
    }


def await_plugin(node: RealNode, *, there: bool = True) -> None:
    """Wait until a node's container runtime is told to call the plugin, or isn't any more."""
    file = node.file(CONFIGURATION)
    eventually(lambda: file.exists() is there, what=f"{file} to be there: {there}")


def another_version(node: RealNode) -> str:
    """Give a node troth's image under the tag of another version, and tell which."""
    repository, _, tag = images.TROTH.rpartition(":")
    other = f"{tag}-next"
    node.ctr("images", "tag", "--force", images.TROTH, f"{repository}:{other}")
    return other
