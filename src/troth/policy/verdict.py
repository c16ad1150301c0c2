"""What was decided for a workload, with the reasons, as values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from troth.policy.model import Mode
from troth.policy.scope import Scope


class DecidedBy(msgspec.Struct, frozen=True, kw_only=True):
    """Where a mode comes from.

    Attributes:
        policy: ``NAMESPACE/NAME``; None when no policy sets a mode (scope ``default``).
    """

    scope: Scope
    policy: str | None = None

    def __str__(self) -> str:
        return f"{self.policy} ({self.scope})" if self.policy else "the default"


class PortVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The effective mode of one port.

    Attributes:
        mode: Never UNSET.
        why: The reason in one sentence.
    """

    mode: Mode
    decided_by: DecidedBy
    why: str


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The effective modes of a workload.

    Attributes:
        mode: Of every port that ``ports`` doesn't name; never UNSET.
        ports: By the workload's own (the container's) port, in ascending order: those asked for
            and those that its workload policy names.
    """

    mode: Mode
    decided_by: DecidedBy
    ports: Mapping[int, PortVerdict]

    def mode_of(self, port: int) -> Mode:
        """The effective mode of any port, named or not."""
        return self.ports[port].mode if port in self.ports else self.mode

    def decider_of(self, port: int) -> DecidedBy:
        """Where the mode of any port comes from."""
        return self.ports[port].decided_by if port in self.ports else self.decided_by


class Outcome(StrEnum):
    """What became of a policy that was looked at for a workload."""

    DECIDES = "decides"
    """The workload's mode or that of one of its ports comes from it."""

    INHERITS = "inherits"
    """It is the one that counts in its scope, but leaves the mode to the next wider one."""

    SHADOWED = "shadowed"
    """It would hold, but an older one of its scope or one of a narrower scope counts."""

    NO_MATCH = "no match"
    """It does not hold for this workload."""


class Considered(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that was looked at for a workload, and what became of it.

    Attributes:
        policy: ``NAMESPACE/NAME``.
        why: The reason in one sentence.
    """

    policy: str
    scope: Scope
    verdict: Outcome
    why: str


class Verdict(Decision, frozen=True, kw_only=True):
    """The effective modes of a workload, and why each policy that was looked at counts or not.

    Attributes:
        considered: The policies of the root namespace and of the workload's own, from mesh over
            namespace to workload scope, in each the oldest first.
    """

    considered: tuple[Considered, ...]
