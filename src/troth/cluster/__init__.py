"""The node agent in a cluster: fed by the Kubernetes API, capturing pods that a kubelet runs."""

from __future__ import annotations

from troth.cluster._node import ClusterNode
from troth.cluster._run import run_node
from troth.cluster._settings import NodeSettings

__all__ = ["ClusterNode", "NodeSettings", "run_node"]
