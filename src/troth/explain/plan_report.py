"""What a change of manifests would do, as a value with a stable JSON form."""

from __future__ import annotations

from typing import Literal

import msgspec

from troth.errors import Problem
from troth.explain.audit_report import Proposal
from troth.explain.front_doors import Breakage, FrontDoor
from troth.explain.observed import Plaintext
from troth.policy.model import Mode
from troth.policy.verdict import DecidedBy


class WorkloadName(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Names a workload among all others."""

    namespace: str
    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A port whose effective mode changes.

    Attributes:
        port: None for all ports of the workload that no other entry names.
        before: ``from`` in JSON; None while the workload isn't in the mesh.
        after: ``to`` in JSON; None once the workload isn't in the mesh.
        decided_by: Where the new mode comes from; None without one.
    """

    workload: WorkloadName
    port: int | None
    before: Mode | None = msgspec.field(name="from")
    after: Mode | None = msgspec.field(name="to")
    decided_by: DecidedBy | None


class PortChange(Change, frozen=True, kw_only=True):
    """A port that clients lose, or lose the encryption of.

    The modes may be equal: then it is the clients that change.

    Attributes:
        seen: The plaintext that running clients sent there, where it is known.
        front_doors: By what clients from outside every mesh come to it, before and after.
    """

    seen: tuple[Plaintext, ...] = ()
    front_doors: tuple[FrontDoor, ...] = ()


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """Every pair of one of the clients and one of the ports.

    Attributes:
        clients: By the manifests; empty when clients are known only from what was seen, or come
            by front doors.
    """

    clients: tuple[WorkloadName, ...]
    ports: tuple[PortChange, ...]


class UnknownWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """Something that makes pods of which nothing is known.

    Attributes:
        why: Why nothing is, in one clause.
    """

    workload: WorkloadName
    why: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a change would do; ``troth plan -o json`` prints exactly this.

    Attributes:
        verdict: Whether a client that gets through today would be refused.
        would_break: One would be, seen or possible.
        changes: By workload and port, for workloads that are there before and after.
        breaks: Connections that are accepted today and would be refused.
        unencrypted: Connections that are encrypted today and would pass in plaintext.
        weaker: Those of ``changes`` after which a port takes more than before: plaintext that it
            refused, or no longer the tunnel.
        unknown: Workloads that the change may concern, and whose pods can't be told.
        exceptions: Policies that keep front doors open which the change would shut.
        problems: Errors of the manifests after the change. What they hide isn't in the plan.
        warnings: What `validate` would find after the change and not before.
    """

    schema: Literal["troth/plan/v1"] = "troth/plan/v1"
    verdict: Breakage
    would_break: bool
    changes: tuple[Change, ...]
    breaks: tuple[Affected, ...]
    unencrypted: tuple[Affected, ...]
    weaker: tuple[Change, ...] = ()
    unknown: tuple[UnknownWorkload, ...] = ()
    exceptions: tuple[Proposal, ...] = ()
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
