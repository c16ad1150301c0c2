"""Objects of other APIs that make pods, with or without a template, or that contain other objects.

Policies depend only on a pod's labels, its service account and the ports its containers declare.
Nothing else of a custom resource is read: the rules for the rest are its own API's.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from troth.errors import Location
from troth.fields import Fields
from troth.manifests.api import FORMER_GROUPS, OTHER_KINDS
from troth.manifests.containers import read_host_ports, read_ports
from troth.manifests.entrances import ENTRANCES
from troth.manifests.workloads import Container, PodTemplate
from troth.mesh.model import ContainerPort
from troth.syntax import NAME, field_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from troth.manifests.kinds import Source


class Held(NamedTuple):
    """An object inside another one's spec; fields that are missing, or templates, are empty."""

    kind: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        if not self.kind:
            return "what can't be told"
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {place}".strip()


class CustomWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """An object that makes pods or other objects, of an API that troth doesn't read completely.

    Attributes:
        kind: ``KIND.GROUP`` (``Rollout.argoproj.io``), or the kind alone in the core API.
        namespace: Its namespace.
        name: Its name.
        templates: Its pods' templates, without duplicates.
        of: The object (``KIND NAMESPACE/NAME``) that has the template, if it refers to one.
        unknown: Why its pods can't be derived from it; empty if they can.
        places: The namespaces that its pods may be in; an empty one stands for any.
        hidden: Contained objects that may change the modes of pods: policies, namespaces, and
            unknown ones.
        content: A text of its content if ``hidden`` isn't empty, to detect changes.
        location: Where the manifest is.
    """

    kind: str
    namespace: str
    name: str
    templates: tuple[PodTemplate, ...] = ()
    of: str = ""
    unknown: str = ""
    places: tuple[str, ...] = ()
    hidden: tuple[Held, ...] = ()
    content: str = ""
    location: Location | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


_BY_OPERATOR = "its operator makes the pods, from no template in it"
_BY_DEPLOYER = "it deploys what stands elsewhere"


def _kinds(why: str, text: str) -> dict[str, str]:
    """``KIND.GROUP`` for each kind of lines ``GROUP KIND ...``."""
    lines = (line.split() for line in text.strip().splitlines())
    return {f"{kind}.{group}": why for group, *kinds in lines for kind in kinds}


_WITHOUT_TEMPLATE = {
    **_kinds(
        _BY_OPERATOR,
        """
        acid.zalan.do postgresql
        agent.k8s.elastic.co Agent
        apm.k8s.elastic.co ApmServer
        argoproj.io ArgoCD EventBus EventSource Sensor
        beat.k8s.elastic.co Beat
        camel.apache.org Integration
        cassandra.datastax.com CassandraDatacenter
        ceph.rook.io CephCluster CephFilesystem CephNFS CephObjectStore
        clickhouse.altinity.com ClickHouseInstallation
        clickhouse-keeper.altinity.com ClickHouseKeeperInstallation
        databases.spotahome.com RedisFailover
        datadoghq.com DatadogAgent
        dragonflydb.io Dragonfly
        elasticsearch.k8s.elastic.co Elasticsearch
        enterprisesearch.k8s.elastic.co EnterpriseSearch
        flink.apache.org FlinkDeployment FlinkSessionJob
        grafana.integreatly.org Grafana
        infinispan.org Infinispan
        install.istio.io IstioOperator
        jaegertracing.io Jaeger
        k8s.keycloak.org Keycloak
        k8s.mariadb.com MariaDB MaxScale
        k8ssandra.io K8ssandraCluster
        kafka.banzaicloud.io KafkaCluster
        kafka.strimzi.io Kafka KafkaBridge KafkaConnect KafkaMirrorMaker KafkaMirrorMaker2
        kafka.strimzi.io KafkaNodePool
        kibana.k8s.elastic.co Kibana
        kubevirt.io VirtualMachine VirtualMachineInstance VirtualMachineInstanceReplicaSet
        logstash.k8s.elastic.co Logstash
        loki.grafana.com LokiStack
        maps.k8s.elastic.co ElasticMapsServer
        minio.min.io Tenant
        mongodb.com MongoDB MongoDBOpsManager
        mongodbcommunity.mongodb.com MongoDBCommunity
        monitoring.coreos.com Alertmanager Prometheus PrometheusAgent ThanosRuler
        mysql.oracle.com InnoDBCluster
        opensearch.opster.io OpenSearchCluster
        operator.victoriametrics.com VMAgent VMAlert VMAlertmanager VMAuth VMCluster VMSingle
        opentelemetry.io OpenTelemetryCollector
        pgv2.percona.com PerconaPGCluster
        postgres-operator.crunchydata.com PGAdmin PostgresCluster
        postgresql.cnpg.io Cluster Pooler
        pingcap.com TidbCluster
        ps.percona.com PerconaServerMySQL
        psmdb.percona.com PerconaServerMongoDB
        pxc.percona.com PerconaXtraDBCluster
        rabbitmq.com RabbitmqCluster
        redis.redis.opstreelabs.in Redis RedisCluster RedisReplication RedisSentinel
        scylla.scylladb.com ScyllaCluster
        serving.kserve.io InferenceService
        solr.apache.org SolrCloud
        sparkoperator.k8s.io ScheduledSparkApplication SparkApplication
        tekton.dev PipelineRun TaskRun
        tempo.grafana.com TempoMonolithic TempoStack
        vault.banzaicloud.com Vault
        zookeeper.pravega.io ZookeeperCluster
        """,
    ),
    **_kinds(
        _BY_DEPLOYER,
        """
        addons.cluster.x-k8s.io ClusterResourceSet HelmChartProxy
        apps.open-cluster-management.io Subscription
        argoproj.io Application ApplicationSet
        config.projectsveltos.io ClusterProfile Profile
        fleet.cattle.io Bundle GitRepo HelmOp
        fluxcd.controlplane.io ResourceSet
        helm.cattle.io HelmChart
        helm.crossplane.io Release
        helm.toolkit.fluxcd.io HelmRelease
        kappctrl.k14s.io App
        kustomize.toolkit.fluxcd.io Kustomization
        packaging.carvel.dev PackageInstall
        """,
    ),
}
_CORE = frozenset({"ReplicationController"})
_MAKES_NO_PODS = re.compile(r"(.+\.)?(gatekeeper\.sh|kyverno\.io)")
"""API groups whose objects contain patterns of pods."""

_NO_PODS_BY_COUNT = re.compile(
    r"""
    (.+\.)?(cluster|autoscaling|metrics)\.x-k8s\.io
    | (machine|machineconfiguration|hive|hypershift|image)\.openshift\.io
    | karpenter(\..+)? | metal3\.io | image\.toolkit\.fluxcd\.io | keda\.sh
    | autoscaling(\..+)? | policy(\..+)? | cert-manager\.io
    """,
    re.VERBOSE,
)
"""API groups whose counts and images mean machines, or scale other objects, or mean no process."""
_NO_PODS_BY_COUNT_KINDS = frozenset(
    f"{kind}.{group}"
    for group, *kinds in (
        ("apps.kruise.io", "SidecarSet", "ContainerRecreateRequest", "ImageListPullJob"),
        ("apps.kruise.io", "ImagePullJob", "NodeImage"),
        ("kafka.strimzi.io", "KafkaTopic"),
    )
    for kind in kinds
)
_COUNTS = frozenset({"replicas", "replicaCount"})
"""Fields that count pods, at any depth of a spec."""
_OWN_COUNTS = frozenset({"count", "instances", "members", "nodes", "numberOfInstances", "size"})
"""Fields that count pods at the top of a spec; below it they may mean anything."""

_WORKFLOWS = frozenset(f"{kind}.argoproj.io" for kind in ("CronWorkflow", "Workflow"))
_WORKFLOW_TEMPLATE = "WorkflowTemplate.argoproj.io"
KNATIVE_SERVICE = "Service.serving.knative.dev"
KNATIVE_REQUESTS = (8012, 8013)
"""The request ports of the proxy that Knative adds to each pod: HTTP/1, and HTTP/2 in plaintext."""
_KNATIVE = frozenset({KNATIVE_SERVICE, "Configuration.serving.knative.dev"})
_KNATIVE_PORTS = (8022, 9090, 9091)
"""The other ports of that proxy."""

_NATIVE = {
    "": frozenset({"Endpoints", "Namespace", "Pod", "ReplicationController", "Service"}),
    "apps": frozenset({"DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"}),
    "batch": frozenset({"CronJob", "Job"}),
    "discovery.k8s.io": frozenset({"EndpointSlice"}),
    "security.istio.io": frozenset({"PeerAuthentication"}),
}
"""The kinds of Kubernetes and Istio that matter when another object contains one."""
_DECIDE = frozenset({"Namespace", "PeerAuthentication"})
"""Those of them that decide modes."""
_OBJECT_BODY = frozenset({"clone", "data", "metadata", "spec"})
"""An object has one of these next to its kind, a reference has none; Kyverno has data and clone."""
_HARMLESS = frozenset(
    {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "User", "Group", "ServiceAccount"}
    | {"ConfigMap", "Secret", "PersistentVolume", "PersistentVolumeClaim"}
    | {"LimitRange", "NetworkPolicy", "PodDisruptionBudget", "ResourceQuota"}
)
"""Kinds in an embedded text that make no pods and admit nobody, including subjects of roles."""
_API_VERSION_IN_TEXT = re.compile(r"""(?:^|[\s{,"'-])apiVersion["']?\s*:""")
_KIND_IN_TEXT = re.compile(r"""(?:^|[\s{,"'-])kind["']?\s*:\s*["']?([^\s"',}]+)""")
_KIND = re.compile(r"[A-Z][A-Za-z0-9]*")
_DEEPEST_HELD = 64

_DEEPEST = 16
_MOST = 64


def custom_kind(value: Mapping[str, object], kind: str, group: str) -> str:
    """The kind of a `CustomWorkload`; empty for an object that makes no pods."""
    name = f"{kind}.{group}" if group else kind
    if group in OTHER_KINDS or group in FORMER_GROUPS:
        return name if name in _CORE else ""
    holds = next(_held(value), None) is not None
    return name if holds or _makes_pods(value.get("spec"), name, group) else ""


def _makes_pods(spec: object, name: str, group: str) -> bool:
    """Whether an object of another API probably makes pods, apart from its contained objects."""
    if name in _WITHOUT_TEMPLATE or name in _WORKFLOWS or name == _WORKFLOW_TEMPLATE:
        return True
    if _MAKES_NO_PODS.fullmatch(group):
        return False
    refers = isinstance(spec, dict) and name == "Rollout.argoproj.io" and "workloadRef" in spec
    if refers or next(_templates(spec, "spec"), None) is not None:
        return True
    return bool(_sign_of_pods(spec, name))


def parse_custom(source: Source) -> CustomWorkload:
    """Read an object for which `custom_kind` has a name."""
    held = tuple(dict.fromkeys(_held(source.document.value)))
    hidden = tuple(each for each in held if not each.kind or each.kind in _DECIDE)
    found = CustomWorkload(
        kind=source.kind,
        namespace=source.namespace,
        name=source.name,
        places=(source.namespace,),
        hidden=hidden,
        content=repr(_body(source.document.value)) if hidden else "",
        location=source.location,
    )
    replace = msgspec.structs.replace
    if why := _WITHOUT_TEMPLATE.get(source.kind):
        anywhere = ("",) if why is _BY_DEPLOYER else found.places
        return replace(found, unknown=why, places=anywhere)
    if held:  # its pods belong to those objects, in their namespaces
        first = (hidden or held)[0]
        places = tuple(dict.fromkeys(each.namespace for each in held))
        return replace(found, unknown=f"it holds other objects, such as {first}", places=places)
    spec = source.top.fields("spec")
    if source.kind == "CronWorkflow.argoproj.io":
        spec = spec.fields("workflowSpec")
    if "workloadRef" in spec and "template" not in spec:
        return replace(found, of=_reference(source, spec.fields("workloadRef")))
    if "workflowTemplateRef" in spec:
        name = spec.fields("workflowTemplateRef").string("name", rule=NAME)
        return replace(found, of=f"{_WORKFLOW_TEMPLATE} {source.namespace}/{name}")
    if source.kind in _WORKFLOWS or source.kind == _WORKFLOW_TEMPLATE:
        templates = _workflow(source, spec)
    else:
        templates = [
            _template(source, path, Fields(each, path, source.report))
            for path, each in itertools.islice(_templates(source.top.value("spec"), "spec"), _MOST)
        ]
    if not templates:
        sign = _sign_of_pods(source.top.value("spec"), source.kind)
        why = f"its {sign} may mean pods, and it has no template of them"
        return replace(found, unknown=why if sign else "it has no pod template")
    if source.kind in _KNATIVE:
        templates = [_knative(source, each) for each in templates]
    if source.kind == "DeploymentConfig.apps.openshift.io":
        templates = [_labelled(each, {"deploymentconfig": source.name}) for each in templates]
    return replace(found, templates=_distinct(templates))


def _reference(source: Source, reference: Fields) -> str:
    kind, group = reference.string("kind"), reference.string("apiVersion").rpartition("/")[0]
    # Kinds that troth reads completely have no group in their names.
    called = kind if group in {"", "apps"} else f"{kind}.{group}"
    return f"{called} {source.namespace}/{reference.string('name', rule=NAME)}"


def _body(value: object) -> dict[object, object]:
    """An object without ``apiVersion``, ``kind`` and ``metadata``."""
    top = value.items() if isinstance(value, dict) else ()
    return {key: each for key, each in top if key not in {"apiVersion", "kind"}}


def _held(value: object) -> Iterator[Held]:
    """The contained objects that may make pods, route to them, or decide about them.

    They are contained as they are, or as a text: YAML, JSON, or a template of either.
    """
    yield from _inside(_body(value), 0)


def _inside(value: object, depth: int) -> Iterator[Held]:
    if depth > _DEEPEST_HELD:
        yield Held("")
    elif isinstance(value, str):
        yield from _in_text(value)
    elif isinstance(value, list):
        for each in value:
            yield from _inside(each, depth + 1)
    elif isinstance(value, dict):
        kind, version = value.get("kind"), value.get("apiVersion")
        if isinstance(kind, str) and isinstance(version, str) and value.keys() & _OBJECT_BODY:
            yield from _itself(value, kind, version.rpartition("/")[0])
        elif value.get("encoding") and isinstance(value.get("content"), str):
            yield Held("")  # compressed, as Fleet does
        for key, each in value.items():
            # An annotation in the metadata may repeat the applied object.
            if key not in {"metadata", "status"}:
                yield from _inside(each, depth + 1)


def _itself(value: dict[object, object], kind: str, group: str) -> Iterator[Held]:
    metadata = value.get("metadata")
    named = metadata if isinstance(metadata, dict) else value
    name, namespace = (named.get(key) for key in ("name", "namespace"))
    if not _KIND.fullmatch(kind):
        yield Held("")
    elif kind in _NATIVE.get(group, ()) or f"{kind}.{group}" in ENTRANCES:
        yield Held(kind, _plain(namespace), _plain(name))
    elif group not in _NATIVE and _makes_pods(value.get("spec"), f"{kind}.{group}", group):
        yield Held(f"{kind}.{group}", _plain(namespace), _plain(name))


def _plain(value: object) -> str:
    """A name as it is written; empty for a template of one."""
    return value if isinstance(value, str) and not NAME.flaw(value) else ""


def _in_text(text: str) -> Iterator[Held]:
    if _API_VERSION_IN_TEXT.search(text):
        for kind in dict.fromkeys(_KIND_IN_TEXT.findall(text)):
            if not _KIND.fullmatch(kind):
                yield Held("")
            elif kind not in _HARMLESS:
                yield Held(kind)


def _templates(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    """All mappings below ``value`` with a pod's spec, and their paths."""
    if depth > _DEEPEST:
        return
    inner: Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        inner = ((field_path(path, key), each) for key, each in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{index}]", each) for index, each in enumerate(value))
    for where, each in inner:
        if isinstance(each, dict) and _is_pod_spec(each.get("spec")):
            yield where, each
        else:
            yield from _templates(each, where, depth + 1)


def _sign_of_pods(spec: object, name: str) -> str:
    """The path of a field that suggests that an object without a template makes pods."""
    if name in _NO_PODS_BY_COUNT_KINDS or _NO_PODS_BY_COUNT.fullmatch(name.partition(".")[2]):
        return ""
    own = spec.items() if isinstance(spec, dict) else ()
    found = (field_path("spec", key) for key, each in own if key in _OWN_COUNTS and _counts(each))
    return next(found, "") or next(_signs(spec, "spec"), "")


def _signs(value: object, path: str, depth: int = 0) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _signs(each, f"{path}[{index}]", depth + 1)
    elif isinstance(value, dict):
        for key, each in value.items():
            where = field_path(path, key)
            if (
                (key in _COUNTS and _counts(each))
                or (key == "image" and _is_image(each))
                or (key == "containers" and _has_mappings(each))
            ):
                yield where
            else:
                yield from _signs(each, where, depth + 1)


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_image(value: object) -> bool:
    """Whether it is an image's name, or its parts as in charts."""
    return bool(value) and (
        isinstance(value, str)
        or (isinstance(value, dict) and not value.keys().isdisjoint({"repository", "tag"}))
    )


def _has_mappings(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(each, dict) for each in value)


def _is_pod_spec(value: object) -> bool:
    return isinstance(value, dict) and _has_mappings(value.get("containers"))


def _template(source: Source, path: str, fields: Fields) -> PodTemplate:
    spec = fields.fields("spec")
    return _pods(
        source,
        part=path,
        labels=fields.fields("metadata").labels("labels"),
        spec=spec,
        containers=spec.each("containers"),
    )


def _pods(
    source: Source, *, part: str, labels: dict[str, str], spec: Fields, containers: list[Fields]
) -> PodTemplate:
    """Templates, each named after its path until it is known to be the only one."""
    account = spec.string("serviceAccountName", rule=NAME) or spec.string("serviceAccount")
    return PodTemplate(
        namespace=source.namespace,
        name=part,
        labels=labels,
        service_account=account or "default",
        containers=tuple(
            Container(
                name=each.string("name"),
                image=each.string("image"),
                ports=read_ports(each),
                host_ports=read_host_ports(each),
            )
            for each in containers
        ),
        host_network=spec.boolean("hostNetwork"),
        owner=source.name,
        owner_kind=source.kind,
        location=source.location,
    )


def _workflow(source: Source, spec: Fields) -> list[PodTemplate]:
    """An Argo Workflow makes a pod for each step that has a container or a script."""
    shared = spec.fields("podMetadata").labels("labels")
    found = []
    for step in spec.each("templates"):
        own = [step.fields(each) for each in ("container", "script") if each in step]
        containers = own or step.fields("containerSet").each("containers")
        if containers:
            labels = shared | step.fields("metadata").labels("labels")
            account = step if "serviceAccountName" in step else spec
            part = step.string("name") or step.name
            found.append(
                _pods(source, part=part, labels=labels, spec=account, containers=containers)
            )
    return found


def _knative(source: Source, template: PodTemplate) -> PodTemplate:
    """A template as Knative changes it: requests go through a proxy next to the containers."""
    requests = KNATIVE_REQUESTS[any(port.name == "h2c" for port in template.ports)]
    proxy = tuple(ContainerPort(number=each) for each in (requests, *_KNATIVE_PORTS))
    return msgspec.structs.replace(
        _labelled(
            template,
            {f"serving.knative.dev/{each}": source.name for each in ("configuration", "service")},
        ),
        containers=(*template.containers, Container(name="queue-proxy", ports=proxy)),
    )


def _labelled(template: PodTemplate, labels: dict[str, str]) -> PodTemplate:
    """The same with the labels that the controller adds."""
    return msgspec.structs.replace(template, labels={**template.labels, **labels})


def _distinct(templates: list[PodTemplate]) -> tuple[PodTemplate, ...]:
    """Those that policies can distinguish, each with a unique name."""
    found: dict[object, PodTemplate] = {}
    for each in templates:
        alike = (tuple(sorted(each.labels.items())), each.service_account, each.host_network)
        found.setdefault((alike, each.ports), each)
    several = len(found) > 1
    return tuple(
        msgspec.structs.replace(
            each, name=f"{each.owner}.{_slug(each.name)}" if several else each.owner
        )
        for each in found.values()
    )


def _slug(path: str) -> str:
    """Part of a name, from a path: ``headgroupspec`` for ``spec.headGroupSpec.template``."""
    steps = [each for each in re.findall(r"[A-Za-z0-9]+", path) if each not in {"spec", "template"}]
    return "-".join(steps).lower() or "pods"
