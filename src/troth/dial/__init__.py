"""One connection from a pod: where it would go, made, and what the node's proxy reports of it.

Here are the values, which those who ask need; `troth.dial.agent` has what makes them.
"""

from __future__ import annotations

from troth.dial._report import (
    Attempt,
    Cause,
    EnvoyStatus,
    Listening,
    Reached,
    Route,
    Way,
)
from troth.dial._reports import belongs, is_echo

__all__ = [
    "Attempt",
    "Cause",
    "EnvoyStatus",
    "Listening",
    "Reached",
    "Route",
    "Way",
    "belongs",
    "is_echo",
]
