"""What happens on a node: capture of its pods, their certificates, and the agent over it all."""

from __future__ import annotations

from troth.node import _netns as netns
from troth.node._agent import NodeAgent, NodePaths
from troth.node._capture import apply_ruleset
from troth.node._certificates import Signed, Signer
from troth.node._history import History

__all__ = [
    "History",
    "NodeAgent",
    "NodePaths",
    "Signed",
    "Signer",
    "apply_ruleset",
    "netns",
]
