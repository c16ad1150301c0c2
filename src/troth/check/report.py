"""What a check finds, as a value with a stable JSON form."""

from __future__ import annotations

from typing import Literal

import msgspec

from troth.errors import Severity


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is in troth's way.

    Attributes:
        severity: An error keeps troth, or pods of the mesh, from working; a warning may.
        code: Names the kind of finding, for programs.
        where: The object, ``KIND NAMESPACE/NAME``, or what else names the place.
        what: What is so, in one clause.
        why: Why it matters, in one sentence.
        remedy: What to do, in one sentence.
    """

    severity: Severity
    code: str
    where: str
    what: str
    why: str
    remedy: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; ``troth check -o json`` prints exactly this.

    Attributes:
        subject: What was looked at: the API server, or the machine.
        version: Kubernetes' version, or the kernel's.
        findings: Errors first.
    """

    subject: str
    version: str
    findings: tuple[Finding, ...]
    schema: Literal["troth/check/v1"] = "troth/check/v1"

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(each.severity is Severity.ERROR for each in self.findings)


def error(code: str, where: str, what: str, *, why: str, remedy: str) -> Finding:
    """A finding that keeps something from working."""
    return Finding(
        severity=Severity.ERROR, code=code, where=where, what=what, why=why, remedy=remedy
    )


def warning(code: str, where: str, what: str, *, why: str, remedy: str) -> Finding:
    """A finding that may keep something from working."""
    return Finding(
        severity=Severity.WARNING, code=code, where=where, what=what, why=why, remedy=remedy
    )


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """Errors first, otherwise as they were found."""
    return tuple(sorted(findings, key=lambda each: each.severity is not Severity.ERROR))
