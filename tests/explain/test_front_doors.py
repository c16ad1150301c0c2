"""Clients outside every mesh, as manifests let them be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.explain.notation import ROOT, objects

from troth.explain.front_doors import Breakage, FrontDoors
from troth.explain.plan import plan

if TYPE_CHECKING:
    from troth.explain.plan import Plan
    from troth.manifests.collect import Manifests

WORLD = ["+web", "Deployment web/shop 8080 9090"]
STRICT = "web/strict STRICT"
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: web}
spec:
  selector: {app: shop}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: metrics, port: 90, targetPort: 9090}]
"""


def doors(*files: str, world: list[str] | None = None) -> dict[int, list[str]]:
    """The front doors of web/shop by port."""
    manifests = objects(*(world or WORLD), **{f"f{n}": text for n, text in enumerate(files)})
    assert manifests.problems == ()
    (template,) = manifests.templates
    found = FrontDoors(manifests).of(template.namespace, template.labels, template.ports)
    return {port: [str(each) for each in those] for port, those in found.items()}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("type: NodePort", "NodePort", id="NodePort"),
        pytest.param("type: LoadBalancer", "LoadBalancer", id="LoadBalancer"),
        pytest.param("externalIPs: [192.0.2.1]", "externalIPs", id="externalIPs"),
        pytest.param("type: ClusterIP", "", id="a Service of the cluster alone"),
    ],
)
def test_a_service_that_nodes_take_connections_for_is_a_front_door(
    spec: str, expected: str
) -> None:
    found = doors(SERVICE.replace("spec:", f"spec:\n  {spec}"))

    expectation = [f"Service web/shop ({expected})"]
    assert found == ({8080: expectation, 9090: expectation} if expected else {})


def entrance(api_version: str, kind: str, spec: str, name: str = "in") -> str:
    metadata = f"{{name: {name}, namespace: web}}"
    return f"apiVersion: {api_version}\nkind: {kind}\nmetadata: {metadata}\n{spec}\n"


BACKEND = "{service: {name: shop, port: {number: 80}}}"
GATEWAY = "gateway.networking.k8s.io/v1"
WEBHOOK = "webhooks: [{name: a, clientConfig: {service: {namespace: web, name: shop, port: 80}}}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            entrance(
                "networking.k8s.io/v1",
                "Ingress",
                f"spec: {{rules: [{{http: {{paths: [{{path: /, backend: {BACKEND}}}]}}}}]}}",
            ),
            "Ingress web/in",
            id="Ingress",
        ),
        pytest.param(
            entrance(
                "networking.k8s.io/v1",
                "Ingress",
                "spec: {defaultBackend: {service: {name: shop, port: {name: http}}}}",
            ),
            "Ingress web/in",
            id="an Ingress' default, by the port's name",
        ),
        pytest.param(
            entrance(
                "networking.k8s.io/v1beta1",
                "Ingress",
                "spec: {rules: [{http: {paths: [{backend: "
                "{serviceName: shop, servicePort: 80}}]}}]}",
            ),
            "Ingress web/in",
            id="Ingress of old",
        ),
        pytest.param(
            entrance(
                GATEWAY, "HTTPRoute", "spec: {rules: [{backendRefs: [{name: shop, port: 80}]}]}"
            ),
            "HTTPRoute web/in",
            id="HTTPRoute",
        ),
        pytest.param(
            entrance(
                GATEWAY,
                "GRPCRoute",
                "spec: {rules: [{filters: [{requestMirror: "
                "{backendRef: {name: shop, port: 80}}}]}]}",
            ),
            "GRPCRoute web/in",
            id="a route's mirror",
        ),
        pytest.param(
            entrance(
                "traefik.io/v1alpha1",
                "IngressRoute",
                "spec: {routes: [{services: [{name: shop, port: http}]}]}",
            ),
            "IngressRoute web/in",
            id="IngressRoute",
        ),
        pytest.param(
            entrance(
                "networking.istio.io/v1",
                "VirtualService",
                "spec: {gateways: [public], http: [{route: [{destination: "
                "{host: shop.web.svc.cluster.local, port: {number: 80}}}]}]}",
            ),
            "VirtualService web/in",
            id="VirtualService",
        ),
        pytest.param(
            entrance(
                "apisix.apache.org/v2",
                "ApisixRoute",
                "spec: {http: [{backends: [{serviceName: shop, servicePort: 80}]}]}",
            ),
            "ApisixRoute web/in",
            id="ApisixRoute",
        ),
        pytest.param(
            entrance(
                "apisix.apache.org/v2",
                "ApisixRoute",
                "spec: {stream: [{backend: {serviceName: shop, servicePort: 80}}]}",
            ),
            "ApisixRoute web/in",
            id="an ApisixRoute of streams",
        ),
        pytest.param(
            entrance("v1", "ConfigMap", "data: {'9000': 'web/shop:80'}"),
            "ConfigMap web/in",
            id="an ingress controller's TCP services",
        ),
        pytest.param(
            entrance("v1", "ConfigMap", "data: {'9000': 'web/shop:http:PROXY:PROXY'}"),
            "ConfigMap web/in",
            id="those by the port's name, with the PROXY protocol",
        ),
        pytest.param(
            entrance("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", WEBHOOK),
            "MutatingWebhookConfiguration in",
            id="an admission webhook",
        ),
        pytest.param(
            entrance(
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                "spec: {conversion: {webhook: {clientConfig: "
                "{service: {namespace: web, name: shop, port: 80}}}}}",
            ),
            "CustomResourceDefinition in",
            id="a conversion webhook",
        ),
        pytest.param(
            entrance(
                "apiregistration.k8s.io/v1",
                "APIService",
                "spec: {service: {namespace: web, name: shop, port: 80}}",
            ),
            "APIService in",
            id="APIService",
        ),
    ],
)
def test_what_leads_from_outside_to_a_service_is_a_front_door(text: str, expected: str) -> None:
    assert doors(SERVICE, text) == {8080: [expected]}


def test_a_route_of_openshift_leads_to_every_port_where_it_names_none() -> None:
    text = entrance("route.openshift.io/v1", "Route", "spec: {to: {kind: Service, name: shop}}")

    assert doors(SERVICE, text) == {8080: ["Route web/in"], 9090: ["Route web/in"]}


def test_a_webhook_is_called_at_port_443_where_it_names_none() -> None:
    text = entrance(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        WEBHOOK.replace(", port: 80", ""),
    )

    assert doors(SERVICE.replace("port: 90,", "port: 443,"), text) == {
        9090: ["ValidatingWebhookConfiguration in"]
    }


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            entrance(
                GATEWAY,
                "HTTPRoute",
                "spec: {parentRefs: [{kind: Service, name: shop}], "
                "rules: [{backendRefs: [{name: shop, port: 80}]}]}",
            ),
            id="a route between Services",
        ),
        pytest.param(
            entrance(
                "networking.istio.io/v1",
                "VirtualService",
                "spec: {http: [{route: [{destination: {host: shop}}]}]}",
            ),
            id="a VirtualService for sidecars",
        ),
        pytest.param(
            entrance(
                GATEWAY, "HTTPRoute", "spec: {rules: [{backendRefs: [{name: other, port: 80}]}]}"
            ),
            id="another Service",
        ),
        pytest.param(
            entrance("v1", "ConfigMap", "data: {url: 'web/shop:80', '9000': shop}"),
            id="any other ConfigMap",
        ),
        pytest.param(
            entrance(
                GATEWAY,
                "HTTPRoute",
                "spec: {rules: [{backendRefs: [{kind: ServiceImport, name: shop, port: 80}]}]}",
            ),
            id="a backend of another kind",
        ),
    ],
)
def test_what_leads_elsewhere_or_from_inside_is_none(text: str) -> None:
    assert doors(SERVICE, text) == {}


SELECTORLESS = """\
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: web}
spec: {type: LoadBalancer, ports: [{port: 80}]}
"""


def endpoints(endpoint: str) -> str:
    return f"""\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: shop-1, namespace: web, labels: {{kubernetes.io/service-name: shop}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{endpoint}]
"""


def behind(*files: str) -> set[tuple[str, int]]:
    """The workloads behind any front door, and their ports."""
    world = [*WORLD, "Pod web/till 8080", "Deployment web/shop-front 7070", "Pod web/relay"]
    manifests = objects(*world, **{f"f{n}": text for n, text in enumerate(files)})
    assert manifests.problems == ()
    found = FrontDoors(manifests)
    return {
        (each.name, port)
        for each in manifests.templates
        for port in found.of(each.namespace, each.labels, each.ports, owner=each.name)
    }


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param("till", "till", id="a bare pod"),
        pytest.param("shop-5c9f7d-x2x4z", "shop", id="one of a workload"),
        pytest.param("shop-front-5c9f7d-x2x4z", "shop-front", id="the longer name"),
    ],
)
def test_a_service_without_a_selector_leads_to_the_pods_of_its_slices(
    pod: str, expected: str
) -> None:
    text = endpoints(f"{{addresses: [10.0.0.9], targetRef: {{kind: Pod, name: {pod}}}}}")

    assert behind(SELECTORLESS, text) == {(expected, 8080)}


def test_endpoints_of_old_name_their_pods_too() -> None:
    text = """\
apiVersion: v1
kind: Endpoints
metadata: {name: shop, namespace: web}
subsets:
- addresses: [{ip: 10.0.0.9, targetRef: {kind: Pod, name: till}}]
  ports: [{port: 8080}]
"""
    assert behind(SELECTORLESS, text) == {("till", 8080)}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param([endpoints("{addresses: [10.0.0.9]}")], id="an address"),
        pytest.param(
            [endpoints("{addresses: [10.0.0.9], targetRef: {kind: Pod, name: other}}")],
            id="a pod that isn't given",
        ),
        pytest.param([], id="no slice is given"),
    ],
)
def test_a_service_that_does_not_tell_its_pods_may_lead_to_any_of_its_namespace(
    files: list[str],
) -> None:
    given = SELECTORLESS.replace("port: 80", "port: 80, targetPort: 8080")

    assert behind(given, *files) == {("shop", 8080), ("till", 8080), ("relay", 8080)}


def test_an_api_service_may_have_a_name_that_others_may_not() -> None:
    spec = "spec: {service: {namespace: web, name: shop, port: 80}}"

    text = entrance("apiregistration.k8s.io/v1", "APIService", spec, name="v1.")

    assert doors(SERVICE, text) == {8080: ["APIService v1."]}


def test_a_port_of_the_node_is_a_front_door() -> None:
    pod = """\
apiVersion: v1
kind: Pod
metadata: {name: shop, namespace: web}
spec:
  containers:
  - name: main
    ports: [{containerPort: 9100, hostPort: 9100}, {containerPort: 53, hostPort: 53, protocol: UDP}]
"""
    assert doors(pod, world=["+web"]) == {9100: ["Pod web/shop (hostPort)"]}


def test_a_port_of_the_node_for_a_pod_without_labels_is_no_front_door_of_other_pods() -> None:
    pod = """\
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: web}
spec: {containers: [{name: main, ports: [{containerPort: 9100, hostPort: 9100}]}]}
"""
    found = FrontDoors(objects(*WORLD, bare=pod))

    assert found.of("web", {"app": "shop"}, ()) == {}
    assert list(found.of("web", {}, ())) == [9100]


def test_a_port_of_the_node_is_no_front_door_of_pods_that_have_more_labels() -> None:
    pod = """\
apiVersion: v1
kind: Pod
metadata: {name: relay, namespace: web, labels: {app: shop}}
spec: {containers: [{name: main, ports: [{containerPort: 9100, hostPort: 9100}]}]}
"""
    found = FrontDoors(objects("+web", "Deployment web/shop {app=shop,tier=front} 8080", pod=pod))
    labels = {"app": "shop", "tier": "front"}

    assert found.of("web", labels, (), owner="shop") == {}
    assert list(found.of("web", {"app": "shop"}, (), owner="relay")) == [9100]
    assert list(found.of("web", labels, (), owner="relay-7d4b9")) == [9100]


def test_a_knative_service_is_its_own_front_door() -> None:
    text = entrance(
        "serving.knative.dev/v1", "Service", "spec: {template: {spec: {containers: [{image: a}]}}}"
    )

    assert doors(text, world=["+web"]) == {8012: ["Service.serving.knative.dev web/in"]}


LOAD_BALANCER = SERVICE.replace("spec:", "spec:\n  type: LoadBalancer").replace(
    ", {name: metrics, port: 90, targetPort: 9090}", ""
)


def changed(before: Manifests, after: Manifests) -> Plan:
    return plan(before, after, root_namespace=ROOT)


def manifests_of(report: Plan) -> list[Any]:
    return [each.manifest for each in report.exceptions]


def test_strict_breaks_the_clients_of_a_front_door() -> None:
    report = changed(
        objects(*WORLD, service=LOAD_BALANCER), objects(*WORLD, STRICT, service=LOAD_BALANCER)
    )

    assert report.verdict is Breakage.POSSIBLE
    (group,) = report.breaks
    assert group.clients == ()
    assert [(port.port, [str(each) for each in port.front_doors]) for port in group.ports] == [
        (8080, ["Service web/shop (LoadBalancer)"])
    ]


def test_clients_outside_the_mesh_and_those_of_front_doors_are_told_apart() -> None:
    world = [*WORLD, "Pod legacy/cron"]

    report = changed(
        objects(*world, service=LOAD_BALANCER), objects(*world, STRICT, service=LOAD_BALANCER)
    )

    assert [
        ([str(each) for each in group.clients], [port.port for port in group.ports])
        for group in report.breaks
    ] == [(["Pod legacy/cron"], [8080, 9090]), ([], [8080])]


def test_a_front_door_that_is_new_or_goes_has_no_clients_to_lose() -> None:
    for before, after in ((LOAD_BALANCER, SERVICE), (SERVICE, LOAD_BALANCER)):
        report = changed(objects(*WORLD, service=before), objects(*WORLD, STRICT, service=after))

        assert report.verdict is Breakage.NONE


def test_a_front_door_beside_one_that_is_new_is_told_alone() -> None:
    ingress = entrance("networking.k8s.io/v1", "Ingress", f"spec: {{defaultBackend: {BACKEND}}}")

    report = changed(
        objects(*WORLD, service=LOAD_BALANCER),
        objects(*WORLD, STRICT, service=LOAD_BALANCER, ingress=ingress),
    )

    (group,) = report.breaks
    assert [str(each) for each in group.ports[0].front_doors] == ["Service web/shop (LoadBalancer)"]


@pytest.mark.parametrize(
    ("policies", "name", "spec"),
    [
        pytest.param(
            [STRICT],
            "shop-front-door",
            {
                "selector": {"matchLabels": {"app": "shop"}},
                "portLevelMtls": {8080: {"mode": "PERMISSIVE"}},
            },
            id="a policy of its own, which leaves all else",
        ),
        pytest.param(
            ["web/mtls {app=shop} STRICT 9090=DISABLE"],
            "mtls",
            {
                "selector": {"matchLabels": {"app": "shop"}},
                "mtls": {"mode": "STRICT"},
                "portLevelMtls": {8080: {"mode": "PERMISSIVE"}, 9090: {"mode": "DISABLE"}},
            },
            id="the policy that counts, changed",
        ),
        pytest.param(
            [STRICT, "web/shop-front-door {app=other} UNSET"],
            "shop-front-door-2",
            {
                "selector": {"matchLabels": {"app": "shop"}},
                "portLevelMtls": {8080: {"mode": "PERMISSIVE"}},
            },
            id="a name that is free",
        ),
    ],
)
def test_a_plan_proposes_the_exception_that_keeps_a_front_door_open(
    policies: list[str], name: str, spec: dict[str, Any]
) -> None:
    report = changed(
        objects(*WORLD, service=LOAD_BALANCER), objects(*WORLD, *policies, service=LOAD_BALANCER)
    )

    (proposal,) = report.exceptions
    assert (proposal.manifest["metadata"]["name"], proposal.manifest["spec"]) == (name, spec)
    assert proposal.workloads == ("web/shop",)
    assert proposal.replaces == any(f"web/{name} " in each for each in policies)
    assert proposal.exceptions == {
        8080: "port 8080 is for clients outside the cluster by Service web/shop (LoadBalancer)"
    }


def test_with_the_exception_that_it_proposes_a_plan_breaks_nobody() -> None:
    before = objects(*WORLD, service=LOAD_BALANCER)
    exception = "web/shop-front-door {app=shop} UNSET 8080=PERMISSIVE"

    report = changed(before, objects(*WORLD, STRICT, exception, service=LOAD_BALANCER))

    assert (report.verdict, report.exceptions) == (Breakage.NONE, ())


RELEASE = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: web}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop, release: r7}}
    spec: {containers: [{name: main, ports: [{containerPort: 8080}]}]}
"""
ROLLOUT = (
    RELEASE.replace("apps/v1", "argoproj.io/v1alpha1")
    .replace("Deployment", "Rollout")
    .replace("release: r7", "helm.sh/chart: shop-1.2.3")
)


@pytest.mark.parametrize("text", [RELEASE, ROLLOUT], ids=["its selector", "labels that stay"])
def test_an_exception_selects_by_what_outlives_a_release(text: str) -> None:
    report = changed(
        objects("+web", service=LOAD_BALANCER, shop=text),
        objects("+web", STRICT, service=LOAD_BALANCER, shop=text),
    )

    (proposal,) = report.exceptions
    assert proposal.manifest["spec"]["selector"] == {"matchLabels": {"app": "shop"}}
