"""The first process of a mesh's own PID namespace: starts the mesh, reaps orphans, ends with it.

When it ends, the kernel ends everything else in the namespace, so nothing can outlive the mesh,
however it dies.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a mesh: Ctrl-C, SIGTERM, and a terminal that was closed."""


def main() -> int:
    """Run the mesh of the state directory that is the first argument; its exit code is ours."""
    mesh = os.fork()
    if mesh == 0:
        from troth.local.run import run_mesh  # noqa: PLC0415 - PID 1 stays small

        return run_mesh(Path(sys.argv[1]))

    def forward(number: int, _frame: object) -> None:
        os.kill(mesh, number)

    for number in ENDING:
        signal.signal(number, forward)
    while True:
        pid, status = os.wait()
        if pid == mesh:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
