from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from troth.errors import Problem, Severity
from troth.local.addresses import ServiceAddresses
from troth.local.plan import (
    MOST_AT_ONCE,
    Published,
    Resolution,
    RunningPod,
    plan_pods,
    resolve,
    same_process,
)
from troth.manifests.collect import Manifests
from troth.manifests.runnable import told_together
from troth.manifests.workloads import (
    Container,
    Deployment,
    EndpointPort,
    EndpointSliceSpec,
    EndpointSpec,
    JobSpec,
    PodTemplate,
    Security,
    ServicePortSpec,
    ServiceSpec,
    StatefulSpec,
    VolumeKind,
    Workload,
)
from troth.mesh.model import ContainerPort, Endpoint, Pod, Protocol, Service

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


def test_the_pods_of_a_stateful_set_have_ordinals_names_claims_and_an_order() -> None:
    database = Workload(
        kind="StatefulSet",
        namespace="shop",
        name="db",
        replicas=2,
        template=template("db", owner="db", owner_kind="StatefulSet"),
        stateful=StatefulSpec(service="db", start=3, claims=("data",)),
    )
    plan = plan_pods(Manifests(workloads={str(database): database}))
    assert list(plan.pods) == ["shop/db-3", "shop/db-4"]
    pod = plan.pods["shop/db-4"]
    assert (pod.hostname, pod.subdomain) == ("db-4", "db")
    assert pod.labels["statefulset.kubernetes.io/pod-name"] == "db-4"
    (volume,) = pod.volumes
    assert (volume.name, volume.kind, volume.source) == ("data", VolumeKind.CLAIM, "data-db-4")
    assert plan.after == {"shop/db-4": "shop/db-3"}


def test_the_pods_of_a_parallel_stateful_set_wait_for_nobody() -> None:
    database = Workload(
        kind="StatefulSet",
        namespace="shop",
        name="db",
        replicas=2,
        template=template("db", owner="db"),
        stateful=StatefulSpec(at_once=True),
    )
    assert plan_pods(Manifests(workloads={str(database): database})).after == {}


def test_a_daemon_set_has_one_pod_whatever_it_says() -> None:
    agent = Workload(kind="DaemonSet", namespace="shop", name="agent", template=template("agent"))
    assert list(plan_pods(Manifests(workloads={str(agent): agent})).pods) == ["shop/agent-0"]


def test_what_keeps_a_job_from_running_is_told_before_it_has_pods() -> None:
    job = Workload(
        kind="CronJob",
        namespace="shop",
        name="backup",
        template=template("backup", containers=(Container(name="app"),)),
        job=JobSpec(),
    )
    (problem,) = plan_pods(Manifests(workloads={str(job): job})).problems
    assert "has no command" in problem.found


def test_bare_pods_and_every_replica_run_under_names_that_stay() -> None:
    plan = plan_pods(manifests(template("job"), deployments=(deployment("web", 2),)))
    assert sorted(plan.pods) == ["shop/job", "shop/web-0", "shop/web-1"]
    assert plan.pods["shop/web-1"].name == "web-1"
    assert plan.pods["shop/web-1"].owner == "web"
    assert plan.problems == ()


def test_a_number_of_replicas_beyond_any_machine_is_cut_and_told() -> None:
    plan = plan_pods(manifests(deployments=(deployment("web", 2_000_000),)))
    assert len(plan.pods) == MOST_AT_ONCE
    assert [(each.path, each.severity) for each in plan.problems] == [
        ("spec.replicas", Severity.WARNING)
    ]


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
    plan = plan_pods(manifests(template("web", unsupported=("containers[0].tty",))))
    assert list(plan.pods) == ["shop/web"]
    (problem,) = plan.problems
    assert problem.severity is Severity.WARNING
    assert problem.path == "containers[0].tty"


def test_what_has_no_effect_is_told_once_of_all_replicas() -> None:
    made = deployment("web", 3)
    unsupported = ("containers[0].tty",)
    made = msgspec.structs.replace(
        made, template=msgspec.structs.replace(made.template, unsupported=unsupported)
    )
    plan = plan_pods(manifests(deployments=(made,)))
    assert list(plan.pods) == ["shop/web-0", "shop/web-1", "shop/web-2"]
    assert [(each.subject, each.path) for each in plan.problems] == [
        ("Deployment shop/web", "containers[0].tty")
    ]


def test_what_has_no_effect_on_several_objects_is_told_in_one_line() -> None:
    several = (template(name, unsupported=(f"containers[{name}].tty",)) for name in "abc")
    bad = template("bad", containers=(Container(name="app"),))
    lines = [text for _, text in told_together(plan_pods(manifests(*several, bad)).problems)]
    assert len(lines) == 2
    assert "has no command" in lines[0]
    assert "Pod shop/a" in lines[1]
    assert lines[1].endswith("(and 2 more like it)")


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


def test_a_full_hostname_that_the_kernel_doesnt_take_keeps_its_pod_from_running() -> None:
    long = template("web", subdomain="a" * 40, fqdn_as_hostname=True)
    plan = plan_pods(manifests(long, template("good", subdomain="a" * 40)))
    assert list(plan.pods) == ["shop/good"]
    (problem,) = plan.problems
    assert (problem.severity, problem.path) == (Severity.ERROR, "spec.setHostnameAsFQDN")


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


def resolved(
    *specs: ServiceSpec,
    pods: Iterable[RunningPod] = (),
    addresses: ServiceAddresses | None = None,
    slices: Iterable[EndpointSliceSpec] = (),
    families: tuple[str, ...] = ("IPv4", "IPv6"),
) -> Resolution:
    manifests = Manifests(
        services={f"shop/{spec.name}": spec for spec in specs},
        endpoint_slices={str(number): each for number, each in enumerate(slices)},
    )
    return resolve(manifests, addresses or ServiceAddresses(), pods, families=families)


def endpoints(spec: ServiceSpec, *pods: RunningPod) -> list[tuple[Endpoint, ...]]:
    both = msgspec.structs.replace(spec, ip_family_policy="PreferDualStack")
    found = resolved(both, pods=pods)
    assert found.problems == ()
    return [port.endpoints for port in found.services["shop/web"].ports]


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


def addressed(spec: ServiceSpec, families: tuple[str, ...] = ("IPv4", "IPv6")) -> Service:
    found = resolved(spec, pods=[running("web-1")], families=families)
    assert found.problems == ()
    return found.services["shop/web"]


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
    found = resolved(service(**fields), service(name="good"), families=("IPv4",))
    assert list(found.services) == ["shop/good"]
    assert [(each.subject, each.path) for each in found.problems] == [("Service shop/web", path)]


def test_both_addresses_asked_for_are_given() -> None:
    asked = ("10.96.0.9", "fd74:726f:7468:96::9")
    spec = service(cluster_ips=asked, cluster_ip=asked[0], ip_family_policy="RequireDualStack")
    assert addressed(spec).cluster_ips == asked


def test_a_headless_service_has_endpoints_but_no_virtual_ip() -> None:
    found = addressed(service(cluster_ip="None"))
    assert found.cluster_ips == ()
    assert found.ports[0].endpoints == FIRST[:1]


def test_a_service_keeps_its_virtual_ip_while_others_come_and_go() -> None:
    addresses = ServiceAddresses()
    before = resolved(service(), addresses=addresses)
    resolved(service(name="aaa"), service(), addresses=addresses)
    after = resolved(service(), addresses=addresses, pods=[running("web-1")])
    kept = before.services["shop/web"].cluster_ips
    assert kept == after.services["shop/web"].cluster_ips != ()


def test_a_virtual_ip_that_another_service_has_is_a_problem_of_that_service_alone() -> None:
    found = resolved(
        service(cluster_ip="10.96.0.20"), service(name="late", cluster_ip="10.96.0.20")
    )
    assert list(found.services) == ["shop/web"]
    assert [problem.subject for problem in found.problems] == ["Service shop/late"]


def test_the_virtual_ip_of_a_service_that_is_gone_is_free_for_another() -> None:
    addresses = ServiceAddresses()
    resolved(service(cluster_ip="10.96.0.20"), addresses=addresses)
    found = resolved(service(name="heir", cluster_ip="10.96.0.20"), addresses=addresses)
    assert found.problems == ()
    assert found.services["shop/heir"].cluster_ips == ("10.96.0.20",)


# What manifests put behind a service.


def in_slice(*endpoints: EndpointSpec, **changes: object) -> EndpointSliceSpec:
    made = EndpointSliceSpec(
        namespace="shop",
        name="web-1",
        service="web",
        family="IPv4",
        ports=(EndpointPort(number=8080),),
        endpoints=endpoints,
    )
    return msgspec.structs.replace(made, **changes)


UNSELECTIVE = service(selector={})
OUTSIDE = EndpointSpec(address="192.0.2.9")


def behind(found: Resolution) -> list[Endpoint]:
    return list(found.services["shop/web"].ports[0].endpoints)


def test_a_service_without_a_selector_leads_to_what_its_slices_hold() -> None:
    more = in_slice(EndpointSpec(address="192.0.2.10"), ports=(EndpointPort(number=9090),))
    found = resolved(UNSELECTIVE, slices=[in_slice(OUTSIDE), more])
    assert behind(found) == [Endpoint("192.0.2.10", 9090), Endpoint("192.0.2.9", 8080)]
    assert found.published["shop/web"] == (
        Published(address="192.0.2.10"),
        Published(address="192.0.2.9"),
    )


def test_ports_of_a_slice_go_by_name() -> None:
    ports = (ServicePortSpec(number=80, target=1, name="http"),)
    named = in_slice(OUTSIDE, ports=(EndpointPort(number=8080, name="http"),))
    assert behind(resolved(service(*ports, selector={}), slices=[named])) == [
        Endpoint("192.0.2.9", 8080)
    ]
    found = resolved(service(*ports, selector={}), slices=[in_slice(OUTSIDE)])
    assert behind(found) == []
    (problem,) = found.problems
    assert problem.found == (
        "has the TCP port 8080 without a name, which Service shop/web doesn't have"
    )


def test_an_endpoint_that_is_not_ready_is_left_out_and_unpublished() -> None:
    found = resolved(
        UNSELECTIVE, slices=[in_slice(OUTSIDE, EndpointSpec(address="192.0.2.8", ready=False))]
    )
    assert behind(found) == [Endpoint("192.0.2.9", 8080)]
    assert found.published["shop/web"] == (Published(address="192.0.2.9"),)


def test_what_ends_but_serves_is_used_when_nothing_is_ready() -> None:
    ending = EndpointSpec(address="192.0.2.8", ready=False, serving=True, terminating=True)
    assert behind(resolved(UNSELECTIVE, slices=[in_slice(ending)])) == [Endpoint("192.0.2.8", 8080)]


def test_a_slice_stands_beside_the_pods_that_a_selector_chooses() -> None:
    found = resolved(service(), pods=[running("web-1")], slices=[in_slice(OUTSIDE)])
    assert behind(found) == [*FIRST[:1], Endpoint("192.0.2.9", 8080)]
    assert found.problems == ()


def test_a_slice_of_the_selectors_controller_is_left_out_with_a_warning() -> None:
    found = resolved(
        service(), pods=[running("web-1")], slices=[in_slice(OUTSIDE, by_controller=True)]
    )
    assert behind(found) == [*FIRST[:1]]
    (problem,) = found.problems
    assert "whose selector replaces it" in problem.found


def test_a_slice_of_a_family_that_the_service_lacks_is_left_out_with_a_warning() -> None:
    v6 = in_slice(EndpointSpec(address="2001:db8::9"), family="IPv6")
    found = resolved(UNSELECTIVE, slices=[v6])
    assert behind(found) == []
    (problem,) = found.problems
    assert problem.path == "addressType"
    both = service(selector={}, ip_family_policy="PreferDualStack")
    assert behind(resolved(both, slices=[v6])) == [Endpoint("2001:db8::9", 8080)]


def test_a_pod_has_a_name_below_the_headless_service_that_is_its_subdomain() -> None:
    pod = running("web-1")
    named = msgspec.structs.replace(pod.template, hostname="first", subdomain="web")
    elsewhere = msgspec.structs.replace(pod.template, hostname="first", subdomain="other")
    for template, hostname in ((named, "first"), (elsewhere, ""), (pod.template, "")):
        found = resolved(
            service(cluster_ip="None"), pods=[msgspec.structs.replace(pod, template=template)]
        )
        assert found.published["shop/web"] == (Published(address="10.244.0.1", hostname=hostname),)


def test_a_headless_service_without_ports_publishes_addresses() -> None:
    portless = msgspec.structs.replace(service(cluster_ip="None"), ports=())
    found = resolved(portless, pods=[running("web-1")])
    assert found.published["shop/web"] == (Published(address="10.244.0.1"),)


def external(name: str, target: str) -> ServiceSpec:
    return service(name=name, type="ExternalName", external_name=target)


def test_an_alias_is_a_name_and_nothing_that_is_balanced() -> None:
    found = resolved(external("db", "DB.example."))
    assert (found.services, found.problems) == ({}, ())
    assert found.aliases == {"shop/db": "db.example"}


def test_aliases_in_a_circle_are_refused_and_no_others() -> None:
    found = resolved(
        external("a", "b.shop.svc.cluster.local"),
        external("b", "a.shop.svc.cluster.local"),
        external("good", "web.shop.svc.cluster.local"),
        service(),
    )
    assert found.aliases == {"shop/good": "web.shop.svc.cluster.local"}
    wanted = "name something else than a Service of type ExternalName"
    assert [(each.subject, each.found, each.wanted) for each in found.problems] == [
        ("Service shop/a", "leads round in a circle: shop/a → shop/b → shop/a", wanted),
        ("Service shop/b", "leads round in a circle: shop/b → shop/a → shop/b", wanted),
    ]


def test_users_that_a_plain_users_mesh_does_not_have_are_a_warning() -> None:
    given = manifests(template("web", security=Security(user=1000)))
    assert plan_pods(given).problems == ()
    plan = plan_pods(given, one_user=True)
    assert list(plan.pods) == ["shop/web"]
    (problem,) = plan.problems
    assert problem.severity is Severity.WARNING
    assert problem.path == "spec.containers[app].securityContext"
