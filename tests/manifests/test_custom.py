from __future__ import annotations

from textwrap import dedent

import pytest

from troth.manifests.amend import amend
from troth.manifests.collect import Manifests, collect
from troth.manifests.custom import custom_kind
from troth.manifests.yaml import read_documents

CONTAINERS = "containers: [{name: app, image: shop, ports: [{containerPort: 8080}]}]"


def read(text: str) -> Manifests:
    return collect(*read_documents(dedent(text), "f.yaml"))


def told(manifests: Manifests) -> list[str]:
    """Each template as ``KIND NAMESPACE/NAME {LABELS} ACCOUNT PORTS``."""
    return [
        f"{each} {dict(each.labels)} {each.service_account} {[p.number for p in each.ports]}"
        for each in manifests.templates
    ]


ROLLOUT = f"""\
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {{name: shop, namespace: web}}
spec:
  replicas: 5
  selector: {{matchLabels: {{app: shop}}}}
  template:
    metadata: {{labels: {{app: shop}}}}
    spec: {{serviceAccountName: shopper, {CONTAINERS}}}
  strategy:
    canary: {{steps: [{{setWeight: 20}}, {{pause: {{}}}}], stableService: shop}}
"""


def of(api_version: str, kind: str, spec: str = "") -> str:
    template = f"template: {{metadata: {{labels: {{app: shop}}}}, spec: {{{CONTAINERS}}}}}"
    return (
        f"apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: shop, namespace: web}}\n"
        f"spec: {{{spec.replace('TEMPLATE', template) if spec else template}}}\n"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(of("v1", "ReplicationController"), "ReplicationController", id="core"),
        pytest.param(
            of("apps.kruise.io/v1alpha1", "CloneSet"), "CloneSet.apps.kruise.io", id="Kruise"
        ),
        pytest.param(
            of("apps.kruise.io/v1beta1", "StatefulSet"),
            "StatefulSet.apps.kruise.io",
            id="the name of another kind",
        ),
        pytest.param(
            of(
                "apps.kruise.io/v1alpha1",
                "AdvancedCronJob",
                "schedule: '* * * * *', template: {jobTemplate: {spec: {TEMPLATE}}}",
            ),
            "AdvancedCronJob.apps.kruise.io",
            id="deeper in its spec",
        ),
        pytest.param(
            of(
                "jobset.x-k8s.io/v1alpha2",
                "JobSet",
                "replicatedJobs: [{template: {spec: {TEMPLATE}}}]",
            ),
            "JobSet.jobset.x-k8s.io",
            id="in a list",
        ),
        pytest.param(
            of("shop.example/v1", "Till"), "Till.shop.example", id="a kind that nobody has heard of"
        ),
    ],
)
def test_a_pod_template_is_found_wherever_a_spec_has_it(text: str, name: str) -> None:
    manifests = read(text)

    assert told(manifests) == [f"{name} web/shop {{'app': 'shop'}} default [8080]"]
    assert manifests.problems == ()
    assert manifests.unknown_workloads == ()


def test_a_template_says_as_whom_its_pods_run() -> None:
    assert told(read(ROLLOUT)) == ["Rollout.argoproj.io web/shop {'app': 'shop'} shopper [8080]"]


def test_a_deployment_config_labels_its_pods_with_its_name() -> None:
    text = of("apps.openshift.io/v1", "DeploymentConfig")

    assert read(text).templates[0].labels == {"app": "shop", "deploymentconfig": "shop"}


@pytest.mark.parametrize(("port", "requests"), [("", 8012), ("name: h2c, ", 8013)])
def test_a_knative_service_takes_requests_at_its_proxy(port: str, requests: int) -> None:
    template = read(
        f"""\
        apiVersion: serving.knative.dev/v1
        kind: Service
        metadata: {{name: shop, namespace: web}}
        spec:
          template:
            spec: {{containers: [{{image: shop, ports: [{{{port}containerPort: 8080}}]}}]}}
        """
    ).templates[0]

    assert str(template) == "Service.serving.knative.dev web/shop"
    assert [each.number for each in template.ports] == [8080, requests, 8022, 9090, 9091]
    assert template.labels["serving.knative.dev/service"] == "shop"


WORKFLOW = """\
apiVersion: argoproj.io/v1alpha1
kind: Workflow
metadata: {name: nightly, namespace: batch}
spec:
  entrypoint: main
  serviceAccountName: runner
  podMetadata: {labels: {job: nightly}}
  templates:
  - {name: main, steps: [[{name: one, template: fetch}], [{name: two, template: load}]]}
  - {name: fetch, container: {image: curl, command: [curl]}}
  - name: load
    metadata: {labels: {troth.dev/mesh: disabled}}
    script: {image: python, source: pass}
"""


def test_a_workflow_makes_pods_of_its_steps() -> None:
    assert told(read(WORKFLOW)) == [
        "Workflow.argoproj.io batch/nightly.fetch {'job': 'nightly'} runner []",
        (
            "Workflow.argoproj.io batch/nightly.load "
            "{'job': 'nightly', 'troth.dev/mesh': 'disabled'} runner []"
        ),
    ]


def test_templates_of_one_object_that_are_alike_are_one() -> None:
    replicas = ", ".join(f"{each}: {{TEMPLATE}}" for each in ("Master", "Worker"))
    text = of("kubeflow.org/v1", "PyTorchJob", f"pytorchReplicaSpecs: {{{replicas}}}")

    assert [each.name for each in read(text).templates] == ["shop"]


REFERRING = """\
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: shop, namespace: web}
spec: {workloadRef: {apiVersion: apps/v1, kind: Deployment, name: shop}}
"""
DEPLOYMENT = of("apps/v1", "Deployment", "selector: {matchLabels: {app: shop}}, TEMPLATE")


def test_a_rollout_may_take_its_pods_from_a_deployment() -> None:
    alone, both = read(REFERRING), read(f"{REFERRING}---\n{DEPLOYMENT}")

    assert [each.unknown for each in alone.unknown_workloads] == [
        "it takes its pods from Deployment web/shop, which isn't given"
    ]
    assert both.unknown_workloads == ()
    assert [str(each) for each in both.templates] == ["Deployment web/shop"]


@pytest.mark.parametrize(
    ("api_version", "kind", "why"),
    [
        ("kafka.strimzi.io/v1beta2", "Kafka", "its operator makes the pods"),
        ("elasticsearch.k8s.elastic.co/v1", "Elasticsearch", "its operator makes the pods"),
        ("postgresql.cnpg.io/v1", "Cluster", "its operator makes the pods"),
        ("opensearch.opster.io/v1", "OpenSearchCluster", "its operator makes the pods"),
        ("operator.victoriametrics.com/v1beta1", "VMAgent", "its operator makes the pods"),
        ("ps.percona.com/v1alpha1", "PerconaServerMySQL", "its operator makes the pods"),
        ("serving.kserve.io/v1beta1", "InferenceService", "its operator makes the pods"),
        ("helm.toolkit.fluxcd.io/v2", "HelmRelease", "it deploys what stands elsewhere"),
    ],
)
def test_what_makes_pods_from_no_template_is_known_to_be_unknown(
    api_version: str, kind: str, why: str
) -> None:
    (unknown,) = read(of(api_version, kind, "replicas: 3")).unknown_workloads

    assert str(unknown) == f"{kind}.{api_version.partition('/')[0]} web/shop"
    assert unknown.unknown.startswith(why)


@pytest.mark.parametrize(
    ("spec", "sign"),
    [
        pytest.param("replicas: 3", "spec.replicas", id="replicas"),
        pytest.param("server: {replicaCount: 0}", "spec.server.replicaCount", id="deeper"),
        pytest.param("pools: [{replicas: 2}]", "spec.pools[0].replicas", id="in a list"),
        pytest.param("size: 3", "spec.size", id="size"),
        pytest.param("instances: 3", "spec.instances", id="instances"),
        pytest.param("image: till:1", "spec.image", id="an image"),
        pytest.param("image: {repository: till}", "spec.image", id="an image in parts"),
        pytest.param("containers: [{name: a}]", "spec.containers", id="containers"),
    ],
)
def test_an_unheard_of_kind_that_counts_pods_or_names_an_image_is_unknown(
    spec: str, sign: str
) -> None:
    (unknown,) = read(of("shop.example/v1", "Till", spec)).unknown_workloads

    assert str(unknown) == "Till.shop.example web/shop"
    assert unknown.unknown == f"its {sign} may mean pods, and it has no template of them"


@pytest.mark.parametrize(
    ("api_version", "kind", "spec"),
    [
        pytest.param("cluster.x-k8s.io/v1beta1", "MachineDeployment", "replicas: 3", id="machines"),
        pytest.param(
            "controlplane.cluster.x-k8s.io/v1beta1",
            "KubeadmControlPlane",
            "replicas: 3",
            id="a control plane of machines",
        ),
        pytest.param("machine.openshift.io/v1beta1", "MachineSet", "replicas: 3", id="OpenShift's"),
        pytest.param("karpenter.sh/v1", "NodePool", "replicas: 3", id="Karpenter's"),
        pytest.param(
            "keda.sh/v1alpha1", "ScaledObject", "fallback: {replicas: 6}", id="a scale of others"
        ),
        pytest.param("kafka.strimzi.io/v1beta2", "KafkaTopic", "replicas: 3", id="copies of data"),
        pytest.param(
            "cert-manager.io/v1", "Certificate", "privateKey: {size: 256}", id="a size in bits"
        ),
        pytest.param("shop.example/v1", "Disk", "volume: {size: 3}", id="a size of a part"),
        pytest.param("shop.example/v1", "Disk", "size: 3Gi", id="a size in bytes"),
    ],
)
def test_a_count_of_what_is_no_pods_makes_none(api_version: str, kind: str, spec: str) -> None:
    manifests = read(of(api_version, kind, spec))

    assert manifests.unknown_workloads == ()
    assert manifests.ignored == ((f"{kind}.{api_version.partition('/')[0]}", 1),)


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("v1", "PodTemplate"),
        ("kyverno.io/v1", "Policy"),
        ("constraints.gatekeeper.sh/v1beta1", "RequiredLabels"),
    ],
)
def test_patterns_of_pods_make_none(api_version: str, kind: str) -> None:
    manifests = read(of(api_version, kind))

    assert manifests.templates == ()
    assert sum(count for _, count in manifests.ignored) == 1


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ("labels: {app: 1}", "spec.template.metadata.labels[app]"),
        ("labels: {app: '!'}", "spec.template.metadata.labels[app]"),
    ],
)
def test_a_template_whose_labels_are_wrong_refuses_its_object(wrong: str, path: str) -> None:
    manifests = read(ROLLOUT.replace("labels: {app: shop}}\n    spec", f"{wrong}}}\n    spec"))

    assert [each.path for each in manifests.problems] == [path]
    assert manifests.refused == {"Rollout.argoproj.io web/shop"}


@pytest.mark.parametrize("kind", ["rollout.argoproj.io", "Rollout"])
def test_a_change_adds_replaces_and_takes_out_custom_workloads(kind: str) -> None:
    before, after = read(ROLLOUT), read(ROLLOUT.replace("shopper", "clerk"))

    replaced = amend(before, new=after)
    gone = amend(before, without=[f"{kind}/web/shop"])

    assert [each.service_account for each in replaced.templates] == ["clerk"]
    assert gone.templates == ()


def test_a_misspelt_kind_of_a_known_api_is_an_error_with_a_template_too() -> None:
    (problem,) = read(of("apps/v1", "Deploymnt")).problems

    assert problem.wanted == "did you mean Deployment?"


POLICY = (
    "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, "
    "metadata: {name: strict, namespace: web}, spec: {mtls: {mode: STRICT}}}"
)
TEXT = POLICY.replace("{", "{ ")


@pytest.mark.parametrize(
    ("api_version", "kind", "spec", "held"),
    [
        pytest.param(
            "kubernetes.crossplane.io/v1alpha2",
            "Object",
            f"forProvider: {{manifest: {POLICY}}}",
            "PeerAuthentication web/strict",
            id="Crossplane",
        ),
        pytest.param(
            "work.open-cluster-management.io/v1",
            "ManifestWork",
            f"workload: {{manifests: [{POLICY}]}}",
            "PeerAuthentication web/strict",
            id="Open Cluster Management",
        ),
        pytest.param(
            "fluxcd.controlplane.io/v1",
            "ResourceSet",
            f"resources: [{POLICY}]",
            "PeerAuthentication web/strict",
            id="Flux",
        ),
        pytest.param(
            "fluxcd.controlplane.io/v1",
            "ResourceSet",
            f'resourcesTemplate: "{TEXT}"',
            "PeerAuthentication",
            id="a text",
        ),
        pytest.param(
            "fleet.cattle.io/v1alpha1",
            "Bundle",
            f'resources: [{{name: a.yaml, content: "{TEXT}"}}]',
            "PeerAuthentication",
            id="Fleet",
        ),
        pytest.param(
            "fleet.cattle.io/v1alpha1",
            "Bundle",
            "resources: [{name: a.yaml, content: H4sI, encoding: base64+gz}]",
            "what can't be told",
            id="what is compressed",
        ),
        pytest.param(
            "kro.run/v1alpha1",
            "ResourceGraphDefinition",
            "resources: [{id: a, template: {apiVersion: v1, kind: '${schema.spec.kind}', "
            "metadata: {name: a}}}]",
            "what can't be told",
            id="a template of a kind",
        ),
        pytest.param(
            "kyverno.io/v1",
            "ClusterPolicy",
            "rules: [{generate: {apiVersion: security.istio.io/v1, kind: PeerAuthentication, "
            "name: strict, namespace: '{{request.object.metadata.name}}', data: {spec: {}}}}]",
            "PeerAuthentication strict",
            id="Kyverno",
        ),
        pytest.param(
            "shop.example/v1",
            "Till",
            "space: {apiVersion: v1, kind: Namespace, metadata: {name: web}}",
            "Namespace web",
            id="a namespace",
        ),
        pytest.param(
            "kubernetes.crossplane.io/v1alpha2",
            "Object",
            "forProvider: {manifest: {apiVersion: work.open-cluster-management.io/v1, "
            f"kind: ManifestWork, spec: {{workload: {{manifests: [{POLICY}]}}}}}}}}",
            "PeerAuthentication web/strict",
            id="one in another",
        ),
    ],
)
def test_an_object_that_holds_a_policy_hides_it(
    api_version: str, kind: str, spec: str, held: str
) -> None:
    (unknown,) = read(of(api_version, kind, spec)).unknown_workloads

    assert [str(each) for each in unknown.hidden] == [held]


def test_pods_of_an_object_inside_another_are_unknown_and_hide_no_policy() -> None:
    deployment = (
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: shop, namespace: far}, "
        f"spec: {{template: {{spec: {{{CONTAINERS}}}}}}}}}"
    )
    text = of(
        "work.open-cluster-management.io/v1", "ManifestWork", f"workload: {{m: [{deployment}]}}"
    )

    manifests = read(text)
    (unknown,) = manifests.unknown_workloads

    assert manifests.templates == ()
    assert unknown.unknown == "it holds other objects, such as Deployment far/shop"
    assert unknown.hidden == ()


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(
            "targetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}", id="a reference"
        ),
        pytest.param(
            "claim: {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {}}",
            id="a claim",
        ),
        pytest.param(
            "issuer: {apiVersion: cert-manager.io/v1, kind: Issuer, spec: {}}",
            id="an object that makes no pods",
        ),
        pytest.param("text: 'kind: of blue'", id="a text that only has the word"),
    ],
)
def test_what_refers_to_objects_or_holds_harmless_ones_hides_nothing(spec: str) -> None:
    manifests = read(of("shop.example/v1", "Till", spec))

    assert manifests.custom_workloads == {}
    assert manifests.ignored == (("Till.shop.example", 1),)


def test_objects_in_objects_are_read_once_however_deep() -> None:
    inner: dict[str, object] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {}}
    for _ in range(60):
        inner = {
            "apiVersion": "shop.example/v1",
            "kind": "Till",
            "metadata": {},
            "spec": {"of": [inner]},
        }

    assert custom_kind(inner, "Till", "shop.example") == "Till.shop.example"
