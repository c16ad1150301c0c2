"""The cluster's controller: signs for node agents, keeps the root, and says what is enforced.

Only the leader of its replicas works. The rules (whom to sign for, who leads, how a root is
replaced, what a status says) are pure; what drives them over the Kubernetes API is apart.
"""

from __future__ import annotations

from troth.controller._election import Timing
from troth.controller._health import Readiness
from troth.controller._keyring import Phase
from troth.controller._rotation import Root, RootRotation, RotationState
from troth.controller._run import Controller, run_controller
from troth.controller._settings import Settings
from troth.controller._signing import SigningRules

__all__ = [
    "Controller",
    "Phase",
    "Readiness",
    "Root",
    "RootRotation",
    "RotationState",
    "Settings",
    "SigningRules",
    "Timing",
    "run_controller",
]
