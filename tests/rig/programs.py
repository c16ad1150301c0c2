"""The programs a test cluster is made of: found, started, ended, and heard when they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rig.machine import Machine

_REPOSITORY = Path(__file__).parents[2]
_LAST_LINES = 20

# Whoever uses it makes a folder of their own there.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
MEMORY = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
"""Where to make folders of thousands of files, which some disks take a minute to forget."""


def find(script: str, *arguments: str) -> Path:
    """The program that one of the repository's scripts finds, or makes when there is none."""
    command = [str(_REPOSITORY / "scripts" / script), *arguments]
    # What it says on standard error (minutes of building, or what is missing) is for people.
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise OSError(f"scripts/{script} failed; what is missing stands above")
    return Path(result.stdout.strip())


class Program:
    """A program on a machine, that can be ended and started again.

    Args:
        machine: Where it runs.
        argv: Its command line.
        log: The file that takes its output, across restarts.
    """

    def __init__(self, machine: Machine, *argv: str, log: Path) -> None:
        self.argv = argv
        self.name = log.stem
        self.machine = machine
        self._log = log
        self._cgroup = f"system.slice/{self.name}.service"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; no waiting for anything."""
        command = self.machine.command(*self.argv, cgroup=self._cgroup)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def await_ready(self, look: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Wait until it is ready; when it isn't or has ended, fail with what it said last."""

        def ready() -> bool:
            assert self.alive, f"{self.name} has ended:\n{self.last_words()}"
            return look()

        try:
            eventually(ready, seconds=seconds, what=f"{self.name}'s readiness")
        except AssertionError as error:
            error.add_note(self.last_words())
            raise

    @property
    def alive(self) -> bool:
        """Whether it is running."""
        return self._process is not None and self._process.poll() is None

    def ask_to_end(self) -> None:
        """Send it SIGTERM, and nothing to its children, as a kubelet does; no waiting."""
        assert self._process is not None
        nsenter = self._process.pid
        (program,) = Path(f"/proc/{nsenter}/task/{nsenter}/children").read_text().split()
        os.kill(int(program), signal.SIGTERM)

    def await_end(self) -> int:
        """Wait until it has ended by itself; its exit code."""
        assert self._process is not None
        return self._process.wait(60)

    def join(self) -> None:
        """Wait for its end, which comes with the machine's."""
        if self._process is not None:
            self._process.wait(60)
            self._process = None

    def terminate(self) -> None:
        """Ask it to end, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang until it is resumed."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self._signal(signal.SIGCONT)
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)  # nsenter stops with its child

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)
        self._process.wait(60)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        # What was started is nsenter, which ends with its child, the program.
        assert self._process is not None
        for pid in self.machine.cgroups.members(self._cgroup):
            if pid != self._process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def output(self) -> str:
        """All of its output so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def last_words(self) -> str:
        """The end of its output."""
        lines = self.output().splitlines()
        return f"--- {self._log.name}\n" + "\n".join(lines[-_LAST_LINES:])


def process_environment() -> dict[str, str]:
    """The environment for processes of a cluster: nothing of the test's own Kubernetes settings."""
    unwanted = ("KUBE", "KUBERNETES_")
    return {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
