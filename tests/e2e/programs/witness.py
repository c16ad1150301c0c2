"""Says when a mode is in force: ``WORKLOAD MODE BY`` a line in, a line out.

It asks the mesh as `troth status` does, but is started once and not for each question.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from troth.control.protocol import call
from troth.control.state_dir import StateDirectory


def pods_in_force(wanted: list[str]) -> bool:
    (status,) = call(StateDirectory().control, "status")
    return bool(status["ready"]) and all(
        said(pod) == wanted[1:] for pod in status["pods"] if pod["workload"] == wanted[0]
    )


def said(pod: dict[str, Any]) -> list[str]:
    return [str(pod["mode"]), str(pod["decided_by"]["policy"])]


for line in sys.stdin:
    while not pods_in_force(line.split()):
        time.sleep(0.05)
    sys.stdout.write("in force\n")
    sys.stdout.flush()
