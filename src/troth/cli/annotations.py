"""What is wrong with manifests, at the lines where a pull request shows it.

Two forms: SARIF 2.1.0 (OASIS), which code scanning takes, and GitHub's workflow commands, which
need no upload (docs.github.com: "Workflow commands for GitHub Actions").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from troth import __version__
from troth.errors import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from troth.errors import Location, Problem
    from troth.explain.plan import Affected, Plan, PortChange
    from troth.policy.model import PeerAuthentication


class Annotation(NamedTuple):
    """One finding.

    Attributes:
        rule: Names the kind of finding.
        severity: Whether it fails the check.
        text: What is so, for people.
        location: Where; None where no line is to blame.
    """

    rule: str
    severity: Severity
    text: str
    location: Location | None = None


def of_problems(problems: Iterable[Problem]) -> Iterator[Annotation]:
    """What `troth validate` finds."""
    for each in problems:
        path = f"{each.path}: " if each.path else ""
        text = f"{each.subject}: {path}{each.found}; {each.wanted}"
        yield Annotation("manifest", each.severity, text, each.location)


def of_plan(plan: Plan, policies: Mapping[str, PeerAuthentication]) -> Iterator[Annotation]:
    """What `troth plan` finds; ``policies`` say where the one that decides is written."""
    for rule, what, affected in (
        ("breaks", "would be refused", plan.breaks),
        ("unencrypted", "would no longer be encrypted", plan.unencrypted),
    ):
        for each in affected:
            for port in each.ports:
                decider = port.decided_by.policy if port.decided_by else None
                policy = policies.get(decider or "")
                text = f"{_whose(each, port)} {what}: {_change(port)}"
                place = policy.location if policy else None
                yield Annotation(rule, Severity.ERROR, text, place)
    for unknown in plan.unknown:
        yield Annotation("unknown", Severity.ERROR, f"{unknown.workload}: {unknown.why}")
    yield from of_problems((*plan.problems, *plan.warnings))


def as_github(annotations: Iterable[Annotation]) -> Iterator[str]:
    """A workflow command each."""
    for each in annotations:
        places = {"title": f"troth: {each.rule}"}
        if each.location:
            places |= {"file": each.location.file, "line": str(each.location.line)}
        told = ",".join(f"{name}={_property(value)}" for name, value in places.items())
        yield f"::{each.severity} {told}::{_data(each.text)}"


def as_sarif(annotations: Iterable[Annotation]) -> dict[str, object]:
    """One run of the tool troth."""
    found = tuple(annotations)
    rules = sorted({each.rule for each in found})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "troth",
                        "version": __version__,
                        "rules": [{"id": rule} for rule in rules],
                    }
                },
                "results": [
                    {
                        "ruleId": each.rule,
                        "level": str(each.severity),
                        "message": {"text": each.text},
                        "locations": [_physical(each.location)] if each.location else [],
                    }
                    for each in found
                ],
            }
        ],
    }


def _whose(affected: Affected, port: PortChange) -> str:
    clients = [*map(str, affected.clients), *(seen.source for seen in port.seen)]
    shown = ", ".join(dict.fromkeys(clients[:10])) or "clients from outside every mesh"
    return f"Connections of {shown}{' and others' if clients[10:] else ''}"


def _change(port: PortChange) -> str:
    number = "its ports" if port.port is None else f"port {port.port}"
    before, after = (mode or "not in the mesh" for mode in (port.before, port.after))
    return f"{number} of {port.workload}, {before} to {after}"


def _physical(location: Location) -> dict[str, object]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(location.file)},
            "region": {"startLine": location.line},
        }
    }


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
