"""What a cluster or a machine lacks for troth: gathered here, judged apart, without any I/O."""

from __future__ import annotations

from troth.check._facts import ClusterFacts, MachineFacts
from troth.check._gather import gather_cluster, gather_namespace
from troth.check._gather_machine import gather_machine
from troth.check._judge import judge_cluster, judge_namespaces
from troth.check._judge_machine import judge_machine
from troth.check._report import Check, Finding

__all__ = [
    "Check",
    "ClusterFacts",
    "Finding",
    "MachineFacts",
    "gather_cluster",
    "gather_machine",
    "gather_namespace",
    "judge_cluster",
    "judge_machine",
    "judge_namespaces",
]
