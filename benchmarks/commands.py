"""What it costs to start the `troth` command, beside the libraries that every command needs."""

from __future__ import annotations

import os
import subprocess
import sys
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.framework import Benchmark, Figure, Run, interleaved, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LIBRARIES = "import msgspec, rich.console, rich.table, typer"
_COMMANDS = ("--help", "status", "why")


def _run(run: Run) -> Iterator[Figure]:
    with TemporaryDirectory() as nowhere:
        environment = os.environ | {"TROTH_STATE_DIR": f"{nowhere}/none"}

        def cpu_of(*arguments: str) -> Callable[[], float]:
            def start() -> float:
                """Milliseconds of CPU of one process, user and system."""
                process = subprocess.Popen(
                    [sys.executable, *arguments],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                _, _, used = os.wait4(process.pid, 0)
                process.returncode = 0  # it has been waited for
                return 1000 * (used.ru_utime + used.ru_stime)

            return start

        troth = ("-c", "from troth.cli import main; main()")
        samples = interleaved(
            {
                "libraries": cpu_of("-c", _LIBRARIES),
                **{command: cpu_of(*troth, command) for command in _COMMANDS},
            },
            run.rounds(20, 5, "commands"),
        )
    for command in _COMMANDS:
        yield ratio(
            f"troth {command}", samples[command], samples["libraries"], to="libraries", unit="ms"
        )


BENCHMARK = Benchmark(about="`troth --help`, and `status` and `why` where no mesh runs", run=_run)
