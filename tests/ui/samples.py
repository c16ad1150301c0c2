"""What a mesh has told, to make graphs of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from troth.explain.audit_report import Audit, Pair, PortAudit, PortState, WorkloadAudit
from troth.explain.why import Refusal, Why
from troth.policy.model import Mode
from troth.policy.scope import Scope
from troth.policy.verdict import DecidedBy
from troth.traffic.connection import Outcome, Reason

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SINCE = NOW - timedelta(hours=1)
_DEFAULT = DecidedBy(scope=Scope.DEFAULT)


def workload(key: str, mode: Mode = Mode.PERMISSIVE) -> WorkloadAudit:
    namespace, _, name = key.partition("/")
    port = PortAudit(state=PortState.NO_TRAFFIC, mode=mode, decided_by=_DEFAULT)
    return WorkloadAudit(
        namespace=namespace,
        name=name,
        ready=False,
        captured=True,
        why="",
        mode=mode,
        ports={8080: port},
    )


def pair(
    source: str, destination: str, *, tunnel: int = 0, plaintext: int = 0, refused: int = 0
) -> Pair:
    return Pair(
        source=source,
        destination=destination,
        port=8080,
        tunnel=tunnel,
        plaintext=plaintext,
        refused=refused,
        last=NOW,
    )


def audit(*pairs: Pair, workloads: tuple[str, ...] = (), outside: tuple[str, ...] = ()) -> Audit:
    return Audit(
        ready=False,
        outside=outside,
        since=SINCE,
        complete_since=SINCE,
        pairs=pairs,
        workloads=tuple(map(workload, workloads)),
        policies=(),
        left_out=(),
    )


def refusal(
    source: str,
    destination: str,
    *,
    outcome: Outcome = Outcome.REFUSED,
    last: datetime = NOW,
    cause: str = "Plaintext.",
) -> Refusal:
    return Refusal(
        source=source,
        source_address="10.244.0.4",
        destination=destination,
        destination_address="10.244.0.2",
        port=8080,
        outcome=outcome,
        reason=Reason.PLAINTEXT_TO_STRICT,
        count=2,
        first=last,
        last=last,
        mode=Mode.STRICT,
        decided_by=_DEFAULT,
        detail="",
        claimed_peer=None,
        cause=cause,
        remedy="Put it in the mesh.",
    )


def why(*refusals: Refusal) -> Why:
    return Why(complete_since=SINCE, refusals=refusals)
