"""All problems of a set of manifests, including probable mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from troth.errors import Problem, Severity
from troth.explain.workloads import WorkloadIndex, is_described, listed, tcp_ports
from troth.manifests.entrances import ENTRANCES
from troth.manifests.runnable import without_effect
from troth.manifests.services import service_problems
from troth.mesh.model import MESH_LABEL
from troth.policy.lint import lint_policies
from troth.policy.model import KIND, Mode
from troth.syntax import LABEL_VALUE, label_key_flaw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import PodTemplate, ServiceSpec
    from troth.policy.model import PeerAuthentication


def lint(manifests: Manifests, *, root_namespace: str) -> Iterator[Problem]:
    """Problems between objects: mostly policies that are a mistake."""
    yield from service_problems(manifests)
    yield from lint_together(manifests, root_namespace=root_namespace)


def lint_together(manifests: Manifests, *, root_namespace: str) -> Iterator[Problem]:
    """Problems of policies that don't apply to what they seem to."""
    policies = tuple(manifests.policies.values())
    yield from lint_policies(
        policies,
        root_namespace=root_namespace,
        workloads=((each.namespace, each.labels) for each in manifests.templates),
    )
    index = WorkloadIndex(manifests.templates)
    services = _by_namespace(manifests.services.values())
    unknown = {each.namespace for each in manifests.unknown_workloads}
    given = sorted(name for name in manifests.namespaces if is_described(manifests, name))
    for policy in policies:
        if policy.namespace == root_namespace:
            continue  # mesh-wide, or of no effect, which is said already
        selected = list(index.matching(policy.namespace, policy.selector))
        meant = [] if selected else index.elsewhere(policy.namespace, policy.selector)
        if not meant:
            yield from _outside_mesh(policy, manifests)
        is_known = policy.namespace in given or index.of_namespace(policy.namespace)
        if given and not is_known:
            yield _nowhere(policy, given, meant)
        if not policy.selector:
            continue
        if selected:
            yield from _ports_of_none(policy, selected, services.get(policy.namespace, ()))
        elif (
            index.of_namespace(policy.namespace)
            and policy.namespace not in unknown
            and _possible(policy)
        ):
            # A namespace without workloads: its policies are kept separately.
            yield _matches_none(policy, index, meant)


def _possible(policy: PeerAuthentication) -> bool:
    """Whether a pod can have its labels; if not, that is reported already."""
    return not any(
        label_key_flaw(key) or LABEL_VALUE.flaw(value) for key, value in policy.selector.items()
    )


def _outside_mesh(policy: PeerAuthentication, manifests: Manifests) -> Iterator[Problem]:
    namespace = policy.namespace
    if policy.mode is not Mode.STRICT or not is_described(manifests, namespace):
        return
    if not manifests.namespaces[namespace].in_mesh:
        yield _warning(
            policy,
            "spec.mtls.mode",
            f"is STRICT, but protects nothing: namespace {namespace} isn't in the mesh",
            f"label the namespace with {MESH_LABEL}: enabled",
        )


def _nowhere(
    policy: PeerAuthentication, given: Sequence[str], meant: Sequence[PodTemplate]
) -> Problem:
    """A problem if Namespaces are given, but not the policy's, which may be misspelled."""
    return _warning(
        policy,
        "metadata.namespace",
        f"is {policy.namespace}, and no other object given is in that namespace",
        _moved(meant) if meant else f"those given are {listed(given)}",
    )


def _moved(meant: Sequence[PodTemplate]) -> str:
    matched = listed([str(each) for each in meant])
    return (
        f"a policy holds in its own namespace only: move it to that of {matched}, which it matches"
    )


def _matches_none(
    policy: PeerAuthentication, index: WorkloadIndex, meant: Sequence[PodTemplate]
) -> Problem:
    namespace = policy.namespace
    count = len(index.of_namespace(namespace))
    known = f"any of the {count} workloads" if count > 1 else "the only workload"
    wanted = "name labels that they have together"
    for key, value in policy.selector.items():
        values = index.values_of(namespace, key)
        if value not in values:
            labels = listed([f"{key}={each}" for each in values])
            wanted = f"they have {labels}" if labels else f"none of them has a label {key}"
            break
    return _warning(
        policy,
        "spec.selector.matchLabels",
        f"doesn't match {known} given in namespace {namespace}",
        _moved(meant) if meant else wanted,
    )


def _ports_of_none(
    policy: PeerAuthentication, selected: list[PodTemplate], services: Iterable[ServiceSpec]
) -> Iterator[Problem]:
    declared = sorted({port for template in selected for port in tcp_ports(template)})
    if not declared:
        return  # containers need not declare the ports they listen on
    for port in sorted(policy.port_modes.keys() - set(declared)):
        whose = listed([str(template) for template in selected])
        wanted = f"the ports declared are {listed([str(each) for each in declared])}"
        for service in services:
            targets = _targets(service, port, selected)
            if targets:
                wanted = (
                    f"{port} is Service {service.namespace}/{service.name}'s port; write the "
                    f"container's, {' or '.join(str(target) for target in targets)}"
                )
        yield _warning(
            policy,
            f"spec.portLevelMtls[{port}]",
            f"is a port that no container of {whose} declares",
            wanted,
        )


def _targets(service: ServiceSpec, port: int, selected: list[PodTemplate]) -> list[int]:
    """The container ports that ``port`` of ``service`` leads to, on the workloads selected."""
    behind = [
        template
        for template in selected
        if service.selector and service.selector.items() <= template.labels.items()
    ]
    targets = {each.target for each in service.ports if each.number == port}
    return sorted(
        {
            declared.number
            for template in behind
            for declared in template.ports
            if declared.number in targets or (declared.name and declared.name in targets)
        }
    )


def _by_namespace(services: Iterable[ServiceSpec]) -> dict[str, list[ServiceSpec]]:
    result: dict[str, list[ServiceSpec]] = {}
    for service in services:
        result.setdefault(service.namespace, []).append(service)
    return result


def _warning(policy: PeerAuthentication, path: str, found: str, wanted: str) -> Problem:
    return Problem.warning(f"{KIND} {policy.key}", path, found, wanted, location=policy.location)


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """The validation; ``troth validate -o json`` prints exactly this.

    Attributes:
        valid: There is no error; warnings may remain.
        errors: How many problems refuse an object.
        warnings: How many problems don't.
        objects: How many objects of each kind are valid.
        ignored: How many objects there are of kinds that troth doesn't use, by ``KIND.GROUP``.
        without_effect: How many fields and kinds have an effect in a cluster but none in
            ``troth up``; None if not requested.
        problems: By file and line.
    """

    schema: Literal["troth/validate/v1"] = "troth/validate/v1"
    valid: bool
    errors: int
    warnings: int
    objects: Mapping[str, int]
    ignored: Mapping[str, int]
    without_effect: int | None = None
    problems: tuple[Problem, ...]


def validate(
    manifests: Manifests, *, root_namespace: str, local: bool = False, count_local: bool = False
) -> Validation:
    """Collect the problems of single objects and those between objects.

    Args:
        manifests: The manifests to validate.
        root_namespace: Where policies without a selector are mesh-wide.
        local: Also report what has an effect in a cluster but none in ``troth up``.
        count_local: At least count that.
    """
    found = [*manifests.problems, *lint(manifests, root_namespace=root_namespace)]
    unmeant = [*without_effect(manifests)] if local or count_local else []
    if local:
        found += unmeant
    problems = sorted(found, key=_place)
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    kinds = [key.partition(" ")[0] for key in manifests.origins]
    return Validation(
        valid=not errors,
        errors=errors,
        warnings=len(problems) - errors,
        objects=dict(sorted(Counter(kind for kind in kinds if kind not in ENTRANCES).items())),
        ignored=dict(manifests.ignored),
        without_effect=len(unmeant) if local or count_local else None,
        problems=tuple(problems),
    )


def _place(problem: Problem) -> tuple[str, int]:
    where = problem.location
    return (where.file, where.line) if where else ("", 0)
