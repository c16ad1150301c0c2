"""From manifests to what a local mesh should be: which pods run, what each Service leads to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

import msgspec

from troth.errors import InputError, Problem, Severity
from troth.mesh import Endpoint, Pod, Service, ServicePort
from troth.sources import PodTemplate, runnable_problems

if TYPE_CHECKING:
    from troth.local._addresses import ServiceAddresses
    from troth.sources import Manifests, ServicePortSpec, ServiceSpec


class PodPlan(msgspec.Struct, frozen=True):
    """The pods that should run, by ``NAMESPACE/NAME``, and what keeps others from it."""

    pods: Mapping[str, PodTemplate]
    problems: tuple[Problem, ...] = ()


class RunningPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod with the template it was made from, for finding a Service's named ports."""

    pod: Pod
    template: PodTemplate


def plan_pods(manifests: Manifests) -> PodPlan:
    """Decide which pods should run: bare Pods, and each Deployment's replicas.

    A replica is named ``DEPLOYMENT-INDEX``, so that it keeps its name over restarts.
    """
    pods: dict[str, PodTemplate] = {}
    problems: list[Problem] = []
    for template in _instances(manifests):
        found = [*runnable_problems(template)]
        key = f"{template.namespace}/{template.name}"
        if (other := pods.get(key)) is not None:
            found.append(
                Problem(
                    subject=f"Pod {key}",
                    path="metadata.name",
                    found=f"is also the name of a pod of {other.owner_kind} {other.owner}",
                    wanted="rename one of them",
                    location=template.location,
                )
            )
        problems += found
        if not any(problem.severity is Severity.ERROR for problem in found):
            pods[key] = template
    return PodPlan(pods=pods, problems=(*problems, *_not_run(manifests)))


def _not_run(manifests: Manifests) -> Iterator[Problem]:
    for workload in manifests.workloads.values():
        yield Problem(
            subject=f"{workload.kind} {workload.namespace}/{workload.name}",
            path="kind",
            found=f"is {workload.kind}, of which no pods are run here",
            wanted="write a Deployment or a Pod",
            severity=Severity.WARNING,
            location=workload.location,
        )


def same_process(one: PodTemplate, other: PodTemplate) -> bool:
    """Whether two templates run the same: labels and annotations can change under a running pod."""
    return _process(one) == _process(other)


def resolve_services(
    specs: Iterable[ServiceSpec],
    addresses: ServiceAddresses,
    running: Iterable[RunningPod],
    *,
    families: Sequence[str] = ("IPv4", "IPv6"),
) -> tuple[dict[str, Service], tuple[Problem, ...]]:
    """Give each Service its virtual IPs and its ready endpoints.

    Args:
        specs: The Services.
        addresses: Where virtual IPs come from.
        running: The pods that may be behind them.
        families: The IP families that pods have addresses of, the default one first.

    Returns:
        Services by ``NAMESPACE/NAME``, and why others have no virtual IP.
    """
    specs = tuple(specs)
    addresses.retain(f"{spec.namespace}/{spec.name}" for spec in specs)
    by_namespace: dict[str, list[RunningPod]] = {}
    for pod in running:
        by_namespace.setdefault(pod.pod.namespace, []).append(pod)
    services: dict[str, Service] = {}
    problems: list[Problem] = []
    for spec in specs:
        if spec.type == "ExternalName":
            continue
        key = f"{spec.namespace}/{spec.name}"
        own = spec.families(families)
        try:
            _check_families(spec, own, families)
            virtual = (
                ()
                if spec.headless
                else addresses.assign(key, families=own, requested=spec.requested_ips)
            )
        except InputError as error:
            problems += (
                msgspec.structs.replace(each, location=spec.location) for each in error.problems
            )
            continue
        if spec.headless:
            addresses.release(key)
        backends = [pod for pod in by_namespace.get(spec.namespace, ()) if _selects(spec, pod.pod)]
        services[key] = Service(
            namespace=spec.namespace,
            name=spec.name,
            cluster_ips=virtual,
            ports=tuple(
                ServicePort(
                    number=port.number,
                    name=port.name,
                    protocol=port.protocol,
                    endpoints=tuple(sorted(_endpoints(port, backends, own))),
                )
                for port in spec.ports
            ),
            client_ip_affinity=spec.client_ip_affinity,
        )
    return services, tuple(problems)


def _check_families(spec: ServiceSpec, own: Sequence[str], available: Sequence[str]) -> None:
    """Refuse what this machine has no addresses for, as a cluster does that isn't dual-stack.

    Raises:
        InputError: It asks for such a family.
    """
    if spec.headless and not spec.selector:
        return
    problems = []
    if spec.family_policy == "RequireDualStack" and len(available) == 1:
        problems.append(("spec.ipFamilyPolicy", "is RequireDualStack", "write PreferDualStack"))
    problems += [
        (f"spec.ipFamilies[{index}]", f"is {family}", f"write {available[0]}, or leave it out")
        for index, family in enumerate(own)
        if family not in available
    ]
    if problems:
        raise InputError(
            Problem(
                subject=f"Service {spec.namespace}/{spec.name}",
                path=path,
                found=f"{found}, but this machine's kernel has only {' and '.join(available)}",
                wanted=wanted,
            )
            for path, found, wanted in problems
        )


def _instances(manifests: Manifests) -> Iterator[PodTemplate]:
    for workload in manifests.deployments.values():
        for index in range(workload.replicas):
            yield msgspec.structs.replace(workload.template, name=f"{workload.name}-{index}")
    yield from manifests.pods.values()


def _process(template: PodTemplate) -> PodTemplate:
    return msgspec.structs.replace(template, labels={}, annotations={}, location=None)


def _selects(spec: ServiceSpec, pod: Pod) -> bool:
    if not spec.selector or not (pod.ready or spec.publish_not_ready):
        return False
    return spec.selector.items() <= pod.labels.items()


def _endpoints(
    port: ServicePortSpec, backends: Iterable[RunningPod], families: Sequence[str]
) -> Iterator[Endpoint]:
    for backend in backends:
        target = _target(port, backend.template)
        if target is None:
            continue
        for address in backend.pod.addresses:
            if f"IPv{ip_address(address).version}" in families:
                yield Endpoint(address, target)


def _target(port: ServicePortSpec, template: PodTemplate) -> int | None:
    """The pod's port behind a service port: a number, or the name of a container's port."""
    if isinstance(port.target, int):
        return port.target
    for declared in template.ports:
        if declared.name == port.target and declared.protocol == port.protocol:
            return declared.number
    return None
