"""The result of a check, with a stable JSON form."""

from __future__ import annotations

from typing import Literal

import msgspec

from troth.errors import Severity


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that keeps troth from working.

    Attributes:
        severity: An error keeps troth, or pods of the mesh, from working; a warning may.
        code: The kind of finding, for programs.
        where: The object, ``KIND NAMESPACE/NAME``, or another name of the place.
        what: The fact, in one clause.
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
    """The result; ``troth check -o json`` prints exactly this.

    Attributes:
        subject: What was checked: the API server, or the machine.
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
    """Errors first, otherwise in the given order."""
    return tuple(sorted(findings, key=lambda each: each.severity is not Severity.ERROR))
