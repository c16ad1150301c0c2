"""From manifests to what a local mesh should be: which pods run, what each Service leads to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from troth.cluster.world import (
    ClusterService,
    EndpointSlice,
    Family,
    NodeTopology,
    SliceEndpoint,
    resolve_services,
)
from troth.errors import InputError, Problem, Severity
from troth.local.hosts import LONGEST_HOSTNAME, kernel_hostname
from troth.manifests.runnable import not_run, not_served, runnable_problems
from troth.manifests.services import aliases, service_problems
from troth.manifests.workloads import PodTemplate, Volume, VolumeKind
from troth.mesh.model import Pod, Service, ServicePort

if TYPE_CHECKING:
    from troth.local.addresses import ServiceAddresses
    from troth.manifests.collect import Manifests
    from troth.manifests.workloads import (
        EndpointSliceSpec,
        ServicePortSpec,
        ServiceSpec,
        StatefulSpec,
        Workload,
    )


MOST_AT_ONCE = 1000
"""Pods of one workload; a number that is mistyped, or a stranger's, must not take all memory."""


class PodPlan(msgspec.Struct, frozen=True):
    """The pods that should run, by ``NAMESPACE/NAME``, and what keeps others from it.

    Attributes:
        pods: Their templates, each with its own name.
        after: For a pod that waits until another one is ready, that other one.
        problems: What is wrong.
    """

    pods: Mapping[str, PodTemplate]
    after: Mapping[str, str] = {}
    problems: tuple[Problem, ...] = ()


class RunningPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod with the template it was made from, for finding a Service's named ports."""

    pod: Pod
    template: PodTemplate


def plan_pods(
    manifests: Manifests, jobs: Iterable[PodTemplate] = (), *, one_user: bool = False
) -> PodPlan:
    """Decide which pods should run: bare Pods, and those of each controller.

    A replica is named ``WORKLOAD-INDEX``, so that it keeps its name over restarts.

    Args:
        manifests: What is written.
        jobs: The pods of Jobs, as `troth.local.jobs` has them.
        one_user: Who has started the mesh is no root, and containers can't be anybody else.
    """
    pods: dict[str, PodTemplate] = {}
    problems: dict[Problem, None] = {}

    def unfit(template: PodTemplate) -> list[Problem]:
        users = _nobody_else(template) if one_user else _nobody_in_particular(template)
        return [*runnable_problems(template), *users]

    for workload in manifests.workloads.values():
        if workload.job is not None:  # also of one that has no pods yet
            problems |= dict.fromkeys(unfit(workload.template))
    problems |= dict.fromkeys(_too_many(manifests))
    for written, template in (*_instances(manifests), *((each, each) for each in jobs)):
        # Of replicas, what is wrong with all of them is said once, of what they are made from.
        found = [*unfit(written), *_unnamable(template)]
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
        problems |= dict.fromkeys(found)
        if not any(problem.severity is Severity.ERROR for problem in found):
            pods[key] = template
    return PodPlan(
        pods=pods,
        after={key: before for key, before in _orders(manifests) if key in pods and before in pods},
        problems=(*problems, *not_run(manifests), *not_served(manifests)),
    )


def _too_many(manifests: Manifests) -> Iterator[Problem]:
    for workload in (*manifests.deployments.values(), *manifests.workloads.values()):
        job = workload.job
        path, count = ("parallelism", job.parallelism) if job else ("replicas", workload.replicas)
        if count > MOST_AT_ONCE:
            found = f"is {count}, and no more than {MOST_AT_ONCE} run at a time here"
            yield Problem.warning(
                str(workload), f"spec.{path}", found, "write less", location=workload.location
            )


def _nobody_else(template: PodTemplate) -> Iterator[Problem]:
    for container in (*template.init_containers, *template.containers):
        if container.security.over(template.security).names_users:
            yield Problem(
                subject=str(template),
                path=f"spec.containers[{container.name}].securityContext",
                found="names users or groups, but the mesh is a plain user's and has no other",
                wanted="start it as root (sudo troth up), or see whether it runs as you",
                severity=Severity.WARNING,
                location=template.location,
            )


def _nobody_in_particular(template: PodTemplate) -> Iterator[Problem]:
    for container in (*template.init_containers, *template.containers):
        security = container.security.over(template.security)
        if security.not_root and security.user is None:
            yield Problem.warning(
                str(template),
                f"spec.containers[{container.name}].securityContext.runAsNonRoot",
                "is true, and no runAsUser says who it is instead; it runs as nobody (65534)",
                "set runAsUser to the user of its image",
                location=template.location,
            )


def _unnamable(template: PodTemplate) -> Iterator[Problem]:
    name = kernel_hostname(template)
    if len(name) > LONGEST_HOSTNAME:
        yield Problem(
            subject=str(template),
            path="spec.setHostnameAsFQDN",
            found=f"makes the hostname {name}, of {len(name)} characters",
            wanted=f"shorten hostname or subdomain: the kernel takes {LONGEST_HOSTNAME}",
            location=template.location,
        )


def same_process(one: PodTemplate, other: PodTemplate) -> bool:
    """Whether two templates run the same: labels and annotations can change under a running pod."""
    return _process(one) == _process(other)


class Published(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """An address that DNS gives for a Service, ready to take connections.

    Attributes:
        address: The address.
        hostname: The name that it has below the Service's; empty for one made of the address.
    """

    address: str
    hostname: str = ""


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What Services are at one moment.

    Attributes:
        services: By ``NAMESPACE/NAME``.
        published: The addresses behind each of them.
        aliases: The names that others stand for (ExternalName).
        problems: Why some have no virtual IP or name, and endpoints that have no effect.
    """

    services: Mapping[str, Service] = {}
    published: Mapping[str, tuple[Published, ...]] = {}
    aliases: Mapping[str, str] = {}
    problems: tuple[Problem, ...] = ()


def resolve(
    manifests: Manifests,
    addresses: ServiceAddresses,
    running: Iterable[RunningPod],
    *,
    families: Sequence[str] = ("IPv4", "IPv6"),
) -> Resolution:
    """Give each Service its virtual IPs and its ready endpoints.

    These are the pods that it selects and what its EndpointSlices hold, together, as kube-proxy has
    it: the controller of the former leaves slices alone that it hasn't made.

    Args:
        manifests: The Services, and slices.
        addresses: Where virtual IPs come from.
        running: The pods that may be behind them.
        families: The IP families that pods have addresses of, the default one first.
    """
    specs = manifests.services
    addresses.retain(key for key, spec in specs.items() if spec.type != "ExternalName")
    by_namespace: dict[str, list[RunningPod]] = {}
    for pod in running:
        by_namespace.setdefault(pod.pod.namespace, []).append(pod)
    by_service: dict[str, list[EndpointSliceSpec]] = {}
    for each in manifests.slices:
        by_service.setdefault(f"{each.namespace}/{each.service}", []).append(each)
    found: list[ClusterService] = []
    slices: list[EndpointSlice] = []
    published: dict[str, tuple[Published, ...]] = {}
    problems = [*service_problems(manifests)]
    for key, spec in specs.items():
        if spec.type == "ExternalName":
            continue
        own = spec.families(families)
        try:
            _check_families(spec, own, families)
            virtual = _virtual_ips(spec, addresses, own)
        except InputError as error:
            places = (msgspec.structs.replace(e, location=spec.location) for e in error.problems)
            problems += places
            continue
        found.append(
            ClusterService(
                namespace=spec.namespace,
                name=spec.name,
                cluster_ips=virtual,
                ports=tuple(
                    ServicePort(number=port.number, name=port.name, protocol=port.protocol)
                    for port in spec.ports
                ),
                client_ip_affinity=spec.client_ip_affinity,
            )
        )
        selected = [pod for pod in by_namespace.get(spec.namespace, ()) if _selects(spec, pod.pod)]
        written = [
            each
            for each in by_service.get(key, ())
            if each.family in own and not (each.by_controller and spec.selector)
        ]
        behind = [each for pod in selected for each in _pod_slices(spec, pod, own)]
        behind += (_slice(each) for each in written)
        slices += behind
        published[key] = tuple(sorted({*_published(spec, selected, own), *_listed(written)}))
    return Resolution(
        services=resolve_services(found, slices, NodeTopology()),
        published=published,
        aliases=aliases(specs.values())[0],
        problems=tuple(problems),
    )


def _virtual_ips(
    spec: ServiceSpec, addresses: ServiceAddresses, families: tuple[str, ...]
) -> tuple[str, ...]:
    key = f"{spec.namespace}/{spec.name}"
    if spec.headless:
        addresses.release(key)
        return ()
    return addresses.assign(key, families=families, requested=spec.requested_ips)


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


def _instances(manifests: Manifests) -> Iterator[tuple[PodTemplate, PodTemplate]]:
    """Each pod, as its template is written and with its own name."""
    for workload in (*manifests.deployments.values(), *manifests.workloads.values()):
        if workload.job is not None:
            continue
        written = workload.template
        for name, ordinal in _names(workload):
            template = msgspec.structs.replace(written, name=name)
            if workload.stateful is not None:
                template = _stateful(template, workload.stateful, ordinal)
            yield written, template
    yield from ((pod, pod) for pod in manifests.pods.values())


def _names(workload: Workload) -> Iterator[tuple[str, int]]:
    start = workload.stateful.start if workload.stateful else 0
    # There is one node.
    count = 1 if workload.kind == "DaemonSet" else min(workload.replicas, MOST_AT_ONCE)
    for ordinal in range(start, start + count):
        yield f"{workload.name}-{ordinal}", ordinal


def _stateful(template: PodTemplate, spec: StatefulSpec, ordinal: int) -> PodTemplate:
    """What a StatefulSet's controller adds to a pod: its name in DNS, labels and claims."""
    name = template.name
    claims = tuple(
        # The controller makes the claim, too.
        Volume(name=each, kind=VolumeKind.CLAIM, source=f"{each}-{name}", optional=True)
        for each in spec.claims
    )
    others = (each for each in template.volumes if each.name not in spec.claims)
    return msgspec.structs.replace(
        template,
        hostname=name,
        subdomain=spec.service,
        labels={
            **template.labels,
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": str(ordinal),
        },
        volumes=(*others, *claims),
    )


def _orders(manifests: Manifests) -> Iterator[tuple[str, str]]:
    """The pods of StatefulSets that wait for others, and for which."""
    for workload in manifests.workloads.values():
        if workload.stateful is not None and not workload.stateful.at_once:
            keys = [f"{workload.namespace}/{name}" for name, _ in _names(workload)]
            yield from zip(keys[1:], keys, strict=False)


def _process(template: PodTemplate) -> PodTemplate:
    return msgspec.structs.replace(template, labels={}, annotations={}, location=None)


def _selects(spec: ServiceSpec, pod: Pod) -> bool:
    if not spec.selector or not (pod.ready or spec.publish_not_ready):
        return False
    return spec.selector.items() <= pod.labels.items()


def _pod_slices(
    spec: ServiceSpec, backend: RunningPod, families: Sequence[str]
) -> Iterator[EndpointSlice]:
    """What the endpoint slice controller would write of a pod: ports by name, resolved."""
    ports = {
        (port.name, port.protocol): target
        for port in spec.ports
        if (target := _target(port, backend.template)) is not None
    }
    for address in backend.pod.addresses:
        if Family.of(address) in families:
            yield EndpointSlice(
                service=f"{spec.namespace}/{spec.name}",
                family=Family.of(address),
                ports=ports,
                endpoints=(SliceEndpoint(address=address),),
            )


def _slice(each: EndpointSliceSpec) -> EndpointSlice:
    return EndpointSlice(
        service=f"{each.namespace}/{each.service}",
        family=Family(each.family),
        ports={(port.name, port.protocol): port.number for port in each.ports},
        endpoints=tuple(
            SliceEndpoint(
                address=endpoint.address,
                ready=endpoint.ready,
                serving=endpoint.serving,
                terminating=endpoint.terminating,
            )
            for endpoint in each.endpoints
        ),
    )


def _published(
    spec: ServiceSpec, selected: Iterable[RunningPod], families: Sequence[str]
) -> Iterator[Published]:
    for backend in selected:
        template = backend.template
        named = template.subdomain == spec.name
        for address in backend.pod.addresses:
            if Family.of(address) in families:
                yield Published(address=address, hostname=template.hostname if named else "")


def _listed(slices: Iterable[EndpointSliceSpec]) -> Iterator[Published]:
    for each in slices:
        for endpoint in each.endpoints:
            if endpoint.ready:
                yield Published(address=endpoint.address, hostname=endpoint.hostname)


def _target(port: ServicePortSpec, template: PodTemplate) -> int | None:
    """The pod's port behind a service port: a number, or the name of a container's port."""
    if isinstance(port.target, int):
        return port.target
    for declared in template.ports:
        if declared.name == port.target and declared.protocol == port.protocol:
            return declared.number
    return None
