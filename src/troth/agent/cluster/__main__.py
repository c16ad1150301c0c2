"""The process of `troth node`; see `troth.agent.cluster.settings.become_node`."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from pathlib import Path

from troth.agent.cluster.settings import settings_told


def main() -> int:
    """Run the agent; its exit code."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("troth", "ascii")  # for ps; it would be Python's
    gc.disable()  # modules are made to stay: to look for garbage among them takes 40 ms
    _load_structlog()
    from troth.agent.cluster.run import run_node  # noqa: PLC0415 - after structlog

    gc.freeze()
    gc.enable()
    return run_node(settings_told(sys.argv[1:]))


def _load_structlog() -> None:
    """Load it without rich, which it would load for consoles: 5 MB, and an agent's logs go to none.

    What wants rich later, as a traced handshake does, gets it.
    """
    sys.modules["rich"] = None  # type: ignore[assignment]  # as the language has it: is not to be found
    importlib.import_module("structlog")
    del sys.modules["rich"]


if __name__ == "__main__":
    sys.exit(main())
