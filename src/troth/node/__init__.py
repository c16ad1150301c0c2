"""What happens on a node: capture of its pods, their certificates, and the agent over it all."""

from __future__ import annotations

from troth.node import _netns as netns
from troth.node._addresses import addresses
from troth.node._agent import NodeAgent
from troth.node._capture import apply_ruleset, capture_rules, is_captured
from troth.node._certificates import Signed, Signer
from troth.node._discover import network_namespaces, node_namespaces
from troth.node._history import History
from troth.node._issuers import Issuers
from troth.node._journal import Journal
from troth.node._ledger import Connections
from troth.node._paths import NodePaths
from troth.node._strangers import StrangerLimits, stranger_rules
from troth.node._sysctls import set_sysctl
from troth.node._unserved import unserved_rules

__all__ = [
    "Connections",
    "History",
    "Issuers",
    "Journal",
    "NodeAgent",
    "NodePaths",
    "Signed",
    "Signer",
    "StrangerLimits",
    "addresses",
    "apply_ruleset",
    "capture_rules",
    "is_captured",
    "netns",
    "network_namespaces",
    "node_namespaces",
    "set_sysctl",
    "stranger_rules",
    "unserved_rules",
]
