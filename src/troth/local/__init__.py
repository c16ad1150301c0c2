"""A one-node mesh from ordinary manifests: pods as processes in their own network namespaces.

The command line sees a mesh from outside its namespaces (`Outside`, `call`); everything that runs
a mesh is behind `_run`, inside them.
"""

from __future__ import annotations

from troth.local._control import call
from troth.local._launch import join_command
from troth.local._outside import Ending, Outside, is_privileged
from troth.local._report import MeshStatus, PodReport, PortStatus, ignored_notice
from troth.local._state import AuthorityFiles, Settings, StateDirectory

__all__ = [
    "AuthorityFiles",
    "Ending",
    "MeshStatus",
    "Outside",
    "PodReport",
    "PortStatus",
    "Settings",
    "StateDirectory",
    "call",
    "ignored_notice",
    "is_privileged",
    "join_command",
]
