"""How a benchmark ends when it is asked to."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

_BY_SIGNAL = 128


def end_in_order() -> None:
    """Have SIGTERM unwind the program as Ctrl-C does, so that clusters and meshes go with it."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, _: object) -> NoReturn:
    sys.exit(_BY_SIGNAL + number)
