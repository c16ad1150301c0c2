"""Which modes apply to one workload, and how they follow from the policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from troth.errors import Problem, Severity
from troth.explain.workloads import belongs, find_subject
from troth.identity.spiffe import SpiffeId
from troth.manifests.kinds import KINDS
from troth.mesh.world import Membership
from troth.policy.index import PolicyIndex
from troth.policy.model import KIND as POLICY
from troth.policy.model import Mode
from troth.policy.verdict import Considered, DecidedBy, PortMode
from troth.syntax import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from troth.identity.spiffe import TrustDomain
    from troth.manifests.collect import Manifests


class WorkloadIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """A workload's identity.

    Attributes:
        name: The object's, or the given labels if no object has them.
        service_account: None, like ``spiffe_id``, if no object has the labels.
    """

    namespace: str
    name: str
    labels: Mapping[str, str]
    service_account: str | None
    spiffe_id: str | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A workload's effective modes; ``troth explain -o json`` prints exactly this.

    Attributes:
        in_mesh: Whether it is in the mesh by its manifests; if not, nothing of this is enforced.
        mode: The mode of all ports that ``ports`` doesn't name.
        ports: The TCP ports of its containers, and those that its portLevelMtls names.
        considered: From mesh over namespace to workload scope, the oldest first in each.
        problems: Errors that hide an object that could change the answer: a policy, the workload's
            namespace, or an unreadable document; and objects of other APIs that contain such an
            object.
    """

    schema: Literal["troth/explain/v1"] = "troth/explain/v1"
    workload: WorkloadIdentity
    in_mesh: bool
    mode: Mode
    decided_by: DecidedBy
    ports: Mapping[int, PortMode]
    considered: tuple[Considered, ...]
    problems: tuple[Problem, ...] = ()


class Derivation(msgspec.Struct, frozen=True, kw_only=True):
    """An explanation with additions for rendering.

    Attributes:
        kind: The workload's; empty if no object has the given labels.
        membership: Why it is in the mesh or not.
    """

    kind: str
    membership: Membership
    explanation: Explanation


def explain(
    manifests: Manifests,
    name: str,
    *,
    root_namespace: str,
    trust_domain: TrustDomain,
) -> Derivation:
    """Say which modes apply to a workload and why.

    Args:
        manifests: The workload, its namespace and the policies.
        name: ``NAMESPACE/NAME`` of a Pod or of what makes pods, or ``NAMESPACE/KEY=VALUE,...``.
        root_namespace: Where mesh-wide policies live.
        trust_domain: The trust domain of the workload's identity.

    Raises:
        InputError: No workload has the name, or several have.
    """
    subject = find_subject(manifests, name)
    verdict = PolicyIndex(manifests.policies.values(), root_namespace).effective(
        subject.namespace, subject.labels, subject.ports
    )
    member = belongs(
        manifests,
        subject.namespace,
        subject.labels,
        host_network=subject.host_network,
    )
    account = subject.service_account
    identity = (
        str(SpiffeId.for_service_account(trust_domain, subject.namespace, account))
        if account is not None
        else None
    )
    return Derivation(
        kind=subject.kind,
        membership=member,
        explanation=Explanation(
            workload=WorkloadIdentity(
                namespace=subject.namespace,
                name=subject.name,
                labels=subject.labels,
                service_account=account,
                spiffe_id=identity,
            ),
            in_mesh=member.in_mesh,
            mode=verdict.mode,
            decided_by=verdict.decided_by,
            ports=verdict.port_modes,
            considered=verdict.considered,
            problems=tuple(_hiding(manifests, subject.namespace, root_namespace)),
        ),
    )


def _hiding(manifests: Manifests, namespace: str, root_namespace: str) -> Iterator[Problem]:
    """The problems that may hide an object that matters for ``namespace``."""
    read = manifests.refused | manifests.origins.keys()
    places = {namespace, root_namespace}
    for problem in manifests.problems:
        kind, _, name = problem.subject.partition(" ")
        # A directory without manifests is only a warning, but most likely the wrong one.
        if problem.severity is not Severity.ERROR and kind != "directory":
            continue
        if kind == POLICY:
            place = name.partition("/")[0]
            counts = place in places or NAMESPACE.flaw(place) is not None or "/" not in name
        elif kind == "Namespace":
            counts = name in {"", namespace}
        else:
            # Of a kind that is known it is no policy, whatever else is wrong with it.
            counts = kind not in KINDS and problem.subject not in read
        if counts:
            yield problem
    for workload in manifests.custom_workloads.values():
        for held in workload.hidden:
            place = held.name if held.kind == "Namespace" else held.namespace
            if not place or place in places:
                yield Problem(
                    subject=str(workload),
                    path="",
                    found=f"holds {held}, which may count here and isn't read",
                    wanted="give what it holds in a file of its own",
                    location=workload.location,
                )
