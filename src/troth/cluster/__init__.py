"""The node agent in a cluster: fed by the Kubernetes API, capturing pods that a kubelet runs.

It is a process of its own, `become_node`: what the command line needed is not in its memory.
"""

from __future__ import annotations

from troth.cluster._become import become_node
from troth.cluster._settings import NodeSettings

__all__ = ["NodeSettings", "become_node"]
