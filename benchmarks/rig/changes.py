"""Policies that are tightened and loosened by turns, and when plaintext feels it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import msgspec

from benchmarks.rig.priority import ahead_of_others

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One policy turned STRICT.

    Attributes:
        written_ms: How long it took to write the policy.
        enforced_ms: From the beginning of that to the end of the first refused connection.
    """

    written_ms: float
    enforced_ms: float

    @property
    def after_ms(self) -> float:
        """From the end of writing on."""
        return self.enforced_ms - self.written_ms


class Probe:
    """`probe.py`, running in a pod.

    Args:
        process: It, with pipes for its standard input and output.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def expect(self, outcome: str) -> None:
        """Have it connect until the outcome is this; it goes on meanwhile."""
        assert self._process.stdin is not None  # noqa: S101 - for the types
        self._process.stdin.write(f"{outcome}\n")
        self._process.stdin.flush()

    def result(self) -> float:
        """When the outcome was as expected."""
        assert self._process.stdout is not None  # noqa: S101 - for the types
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError("the probe has ended; see what it says on standard error")
        return float(line)


def tighten(write: Callable[[str], None], probe: Probe, rounds: Iterable[object]) -> list[Change]:
    """Have a policy turned STRICT once in every round, ahead of all else that the machine does.

    Args:
        write: Puts the policy with this mode where it is read from.
        probe: In a client without a certificate, towards the pod that the policy is for.
        rounds: As many as there are.
    """
    probe.expect("answered")
    probe.result()  # it runs
    with ahead_of_others():
        return [_tighten(write, probe) for _ in rounds]


def _tighten(write: Callable[[str], None], probe: Probe) -> Change:
    probe.expect("answered")
    write("PERMISSIVE")
    probe.result()
    probe.expect("refused")
    begun = time.monotonic()
    write("STRICT")
    written = time.monotonic()
    enforced = probe.result()
    return Change(written_ms=(written - begun) * 1000, enforced_ms=(enforced - begun) * 1000)
