from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.errors import Problem, Severity
from troth.local._addresses import ServiceAddresses
from troth.local._plan import (
    RunningPod,
    plan_pods,
    resolve_services,
    same_process,
)
from troth.mesh import ContainerPort, Endpoint, Pod, Protocol, Service
from troth.sources import (
    Container,
    Deployment,
    Manifests,
    PodTemplate,
    ServicePortSpec,
    ServiceSpec,
    Workload,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

APP = Container(
    name="app",
    command=("serve",),
    ports=(
        ContainerPort(number=8080, name="http"),
        ContainerPort(number=53, name="dns", protocol=Protocol.UDP),
    ),
)


def template(name: str, **changes: object) -> PodTemplate:
    made = PodTemplate(namespace="shop", name=name, labels={"app": "web"}, containers=(APP,))
    return msgspec.structs.replace(made, **changes)


def deployment(name: str, replicas: int) -> Deployment:
    return Deployment(
        namespace="shop",
        name=name,
        replicas=replicas,
        template=template(name, owner=name, owner_kind="Deployment"),
    )


def manifests(*pods: PodTemplate, deployments: tuple[Deployment, ...] = ()) -> Manifests:
    return Manifests(
        pods={f"shop/{pod.name}": pod for pod in pods},
        deployments={f"shop/{each.name}": each for each in deployments},
    )


# Which pods run.


def test_a_workload_of_which_no_pods_are_run_is_told_of() -> None:
    database = Workload(
        kind="StatefulSet", namespace="shop", name="db", template=template("db", owner="db")
    )
    plan = plan_pods(Manifests(workloads={str(database): database}))
    (problem,) = plan.problems
    assert plan.pods == {}
    assert problem.severity is Severity.WARNING
    assert problem.subject == "StatefulSet shop/db"


def test_bare_pods_and_every_replica_run_under_names_that_stay() -> None:
    plan = plan_pods(manifests(template("job"), deployments=(deployment("web", 2),)))
    assert sorted(plan.pods) == ["shop/job", "shop/web-0", "shop/web-1"]
    assert plan.pods["shop/web-1"].name == "web-1"
    assert plan.pods["shop/web-1"].owner == "web"
    assert plan.problems == ()


def test_a_deployment_of_no_replicas_runs_nothing() -> None:
    assert plan_pods(manifests(deployments=(deployment("web", 0),))).pods == {}


def test_a_container_without_a_command_keeps_its_pod_from_running_and_no_other() -> None:
    imaged = template("imaged", containers=(Container(name="app"),))
    plan = plan_pods(manifests(imaged, template("good")))
    assert list(plan.pods) == ["shop/good"]
    (problem,) = plan.problems
    assert problem.severity is Severity.ERROR
    assert "the container app has no command" in problem.found
    assert problem.wanted


def test_a_field_without_effect_is_told_and_keeps_nothing_from_running() -> None:
    plain = msgspec.structs.replace(APP, unsupported=("livenessProbe",))
    plan = plan_pods(manifests(template("web", containers=(plain,))))
    assert list(plan.pods) == ["shop/web"]
    (problem,) = plan.problems
    assert problem.severity is Severity.WARNING
    assert problem.path.endswith("livenessProbe")


def test_a_pod_of_the_hosts_network_runs_in_a_namespace_of_its_own_with_a_warning() -> None:
    plan = plan_pods(manifests(template("agent", host_network=True)))
    assert list(plan.pods) == ["shop/agent"]
    (problem,) = plan.problems
    assert problem.severity is Severity.WARNING
    assert problem.path == "hostNetwork"


def test_a_pod_with_a_replicas_name_is_refused_and_the_replica_runs() -> None:
    plan = plan_pods(manifests(template("web-0"), deployments=(deployment("web", 1),)))
    assert plan.pods["shop/web-0"].owner == "web"
    assert plan.problems == (
        Problem(
            subject="Pod shop/web-0",
            path="metadata.name",
            found="is also the name of a pod of Deployment web",
            wanted="rename one of them",
        ),
    )


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        pytest.param({"labels": {"app": "other"}}, True, id="labels"),
        pytest.param({"annotations": {"note": "x"}}, True, id="annotations"),
        pytest.param({"service_account": "other"}, False, id="the service account"),
        pytest.param({"hostname": "other"}, False, id="the hostname"),
        pytest.param({"containers": (Container(name="app", command=("x",)),)}, False, id="command"),
    ],
)
def test_a_pod_is_made_anew_when_and_only_when_its_process_would_differ(
    *, changes: dict[str, object], same: bool
) -> None:
    assert same_process(template("web"), template("web", **changes)) is same


# What a service leads to.


def running(name: str, *, ready: bool = True, **changes: object) -> RunningPod:
    number = int(name.rpartition("-")[2])
    pod = Pod(
        uid=name,
        namespace="shop",
        name=name,
        labels={"app": "web"},
        addresses=(f"10.244.0.{number}", f"fd74::{number}"),
        ready=ready,
    )
    return RunningPod(pod=msgspec.structs.replace(pod, **changes), template=template(name))


def service(*ports: ServicePortSpec, **changes: object) -> ServiceSpec:
    spec = ServiceSpec(
        namespace="shop",
        name="web",
        selector={"app": "web"},
        ports=ports or (ServicePortSpec(number=80, target=8080),),
    )
    return msgspec.structs.replace(spec, **changes)


def endpoints(spec: ServiceSpec, *pods: RunningPod) -> list[tuple[Endpoint, ...]]:
    both = msgspec.structs.replace(spec, ip_family_policy="PreferDualStack")
    services, problems = resolve_services([both], ServiceAddresses(), pods)
    assert problems == ()
    return [port.endpoints for port in services["shop/web"].ports]


FIRST = (Endpoint("10.244.0.1", 8080), Endpoint("fd74::1", 8080))
SECOND = (Endpoint("10.244.0.2", 8080), Endpoint("fd74::2", 8080))


@pytest.mark.parametrize(
    ("spec", "pods", "expected"),
    [
        pytest.param(
            service(),
            (running("web-2"), running("web-1")),
            tuple(sorted(FIRST + SECOND)),
            id="all ready pods in order",
        ),
        pytest.param(
            service(), (running("web-1", ready=False), running("web-2")), SECOND, id="unready"
        ),
        pytest.param(
            service(publish_not_ready=True),
            (running("web-1", ready=False),),
            FIRST,
            id="unready but published",
        ),
        pytest.param(service(), (running("web-1", labels={}),), (), id="other labels"),
        pytest.param(
            service(), (running("web-1", labels={"app": "web", "x": "y"}),), FIRST, id="more labels"
        ),
        pytest.param(service(), (running("web-1", namespace="bank"),), (), id="another namespace"),
        pytest.param(service(selector={}), (running("web-1"),), (), id="no selector"),
        pytest.param(service(), (running("web-1", addresses=()),), (), id="no address yet"),
        pytest.param(
            service(ServicePortSpec(number=80, target="http")),
            (running("web-1"),),
            FIRST,
            id="a named port",
        ),
        pytest.param(
            service(ServicePortSpec(number=80, target="nothing")),
            (running("web-1"),),
            (),
            id="an unknown name",
        ),
        pytest.param(
            service(ServicePortSpec(number=80, target="dns")),
            (running("web-1"),),
            (),
            id="a name of another protocol",
        ),
    ],
)
def test_a_service_leads_to_the_ready_pods_it_selects(
    spec: ServiceSpec, pods: tuple[RunningPod, ...], expected: tuple[Endpoint, ...]
) -> None:
    assert endpoints(spec, *pods) == [expected]


def addressed(spec: ServiceSpec, **options: tuple[str, ...]) -> Service:
    services, problems = resolve_services([spec], ServiceAddresses(), [running("web-1")], **options)
    assert problems == ()
    return services["shop/web"]


def families_of(addresses: Iterable[str]) -> list[str]:
    return ["IPv6" if ":" in address else "IPv4" for address in addresses]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, ["IPv4"], id="nothing asked for"),
        pytest.param({"ip_families": ("IPv6",)}, ["IPv6"], id="IPv6"),
        pytest.param({"ip_family_policy": "PreferDualStack"}, ["IPv4", "IPv6"], id="both"),
        pytest.param({"cluster_ip": "fd74:726f:7468:96::7"}, ["IPv6"], id="an IPv6 address"),
        pytest.param(
            {"ip_families": ("IPv6",), "ip_family_policy": "RequireDualStack"},
            ["IPv6", "IPv4"],
            id="both, IPv6 first",
        ),
    ],
)
def test_a_service_has_virtual_ips_and_endpoints_of_its_own_families_alone(
    fields: dict[str, object], expected: list[str]
) -> None:
    found = addressed(service(**fields))
    assert families_of(found.cluster_ips) == expected
    behind = families_of(each.address for each in found.ports[0].endpoints)
    assert sorted(behind) == sorted(expected)


def test_a_headless_service_publishes_no_ipv6_unless_asked() -> None:
    assert addressed(service(cluster_ip="None")).ports[0].endpoints == FIRST[:1]
    both = addressed(service(cluster_ip="None", ip_family_policy="PreferDualStack"))
    assert both.ports[0].endpoints == FIRST


def test_dual_stack_is_had_where_preferred_and_possible() -> None:
    found = addressed(service(ip_family_policy="PreferDualStack"), families=("IPv4",))
    assert families_of(found.cluster_ips) == ["IPv4"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"ip_family_policy": "RequireDualStack"}, "spec.ipFamilyPolicy"),
        ({"ip_families": ("IPv6",)}, "spec.ipFamilies[0]"),
    ],
)
def test_a_family_that_the_machine_lacks_is_a_problem_of_that_service_alone(
    fields: dict[str, object], path: str
) -> None:
    services, problems = resolve_services(
        [service(**fields), service(name="good")], ServiceAddresses(), [], families=("IPv4",)
    )
    assert list(services) == ["shop/good"]
    assert [(each.subject, each.path) for each in problems] == [("Service shop/web", path)]


def test_both_addresses_asked_for_are_given() -> None:
    asked = ("10.96.0.9", "fd74:726f:7468:96::9")
    spec = service(cluster_ips=asked, cluster_ip=asked[0], ip_family_policy="RequireDualStack")
    assert addressed(spec).cluster_ips == asked


def test_a_headless_service_has_endpoints_but_no_virtual_ip() -> None:
    services, _ = resolve_services(
        [service(cluster_ip="None")], ServiceAddresses(), [running("web-1")]
    )
    assert services["shop/web"].cluster_ips == ()
    assert services["shop/web"].ports[0].endpoints == FIRST[:1]


def test_a_service_that_stands_for_a_dns_name_is_none_of_the_meshs() -> None:
    spec = service(type="ExternalName", external_name="db.example")
    assert resolve_services([spec], ServiceAddresses(), []) == ({}, ())


def test_a_service_keeps_its_virtual_ip_while_others_come_and_go() -> None:
    addresses = ServiceAddresses()
    before, _ = resolve_services([service()], addresses, [])
    resolve_services([service(name="aaa"), service()], addresses, [])
    after, _ = resolve_services([service()], addresses, [running("web-1")])
    assert before["shop/web"].cluster_ips == after["shop/web"].cluster_ips != ()


def test_a_virtual_ip_that_another_service_has_is_a_problem_of_that_service_alone() -> None:
    specs = [service(cluster_ip="10.96.0.20"), service(name="late", cluster_ip="10.96.0.20")]
    services, problems = resolve_services(specs, ServiceAddresses(), [])
    assert list(services) == ["shop/web"]
    assert [problem.subject for problem in problems] == ["Service shop/late"]


def test_the_virtual_ip_of_a_service_that_is_gone_is_free_for_another() -> None:
    addresses = ServiceAddresses()
    resolve_services([service(cluster_ip="10.96.0.20")], addresses, [])
    services, problems = resolve_services(
        [service(name="heir", cluster_ip="10.96.0.20")], addresses, []
    )
    assert problems == ()
    assert services["shop/heir"].cluster_ips == ("10.96.0.20",)
