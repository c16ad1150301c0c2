"""What manifests say, typed, as far as a local pod runner and the offline commands need it.

Field names follow the Kubernetes API (core/v1, apps/v1, batch/v1) in Python's spelling, and
defaults are the API's. Every value is one object that passed validation; the functions that make
them stand in the parsers beside this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from ipaddress import ip_address

import msgspec

from troth.errors import Location
from troth.mesh.model import ContainerPort, Protocol


class KeyRef(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a ConfigMap or Secret (``ConfigMapKeySelector``, ``SecretKeySelector``)."""

    name: str
    key: str
    optional: bool = False


class ResourceRef(msgspec.Struct, frozen=True, kw_only=True):
    """A container's limit or request, as a number (``ResourceFieldSelector``).

    Attributes:
        resource: Such as ``limits.memory``.
        container: Whose; empty for the one that asks.
        divisor: What the number counts, such as ``1Mi``.
    """

    resource: str
    container: str = ""
    divisor: str = "1"


class EnvVar(msgspec.Struct, frozen=True, kw_only=True):
    """An environment variable (``EnvVar``): a value, or exactly one place to take it from.

    Attributes:
        name: The variable.
        value: Its text, in which ``$(VAR)`` is still to be expanded.
        config_map_key: ``valueFrom.configMapKeyRef``.
        secret_key: ``valueFrom.secretKeyRef``.
        field_path: ``valueFrom.fieldRef.fieldPath``, such as ``status.podIP``.
        resource: ``valueFrom.resourceFieldRef``.
    """

    name: str
    value: str = ""
    config_map_key: KeyRef | None = None
    secret_key: KeyRef | None = None
    field_path: str | None = None
    resource: ResourceRef | None = None


class EnvFrom(msgspec.Struct, frozen=True, kw_only=True):
    """All keys of one ConfigMap or Secret as variables (``EnvFromSource``); one name is set."""

    config_map: str = ""
    secret: str = ""
    prefix: str = ""
    optional: bool = False


class HttpGet(msgspec.Struct, frozen=True, kw_only=True):
    """``HTTPGetAction``; any 2xx or 3xx answer is success."""

    port: int
    path: str = "/"
    scheme: str = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()


class GrpcCheck(msgspec.Struct, frozen=True, kw_only=True):
    """``GRPCAction``: gRPC's health checking protocol, of one service or of the whole server."""

    port: int
    service: str = ""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A container probe (``Probe``); exactly one of the four handlers is set. Times in seconds.

    ``grace`` is its own ``terminationGracePeriodSeconds``, None for the pod's.
    """

    http_get: HttpGet | None = None
    grpc: GrpcCheck | None = None
    tcp_port: int | None = None
    command: tuple[str, ...] | None = None
    initial_delay: int = 0
    period: int = 10
    timeout: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: int | None = None


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """What is done at a turn of a container's life (``LifecycleHandler``); one member is set.

    Attributes:
        http_get: A request, whatever the answer's status.
        command: A command in the container.
        sleep: Seconds of waiting.
    """

    http_get: HttpGet | None = None
    command: tuple[str, ...] | None = None
    sleep: int | None = None


class VolumeMount(msgspec.Struct, frozen=True, kw_only=True):
    """Where a volume appears in a container (``VolumeMount``).

    In ``sub_path_expr`` there are variables to be expanded.
    """

    name: str
    mount_path: str
    sub_path: str = ""
    sub_path_expr: str = ""
    read_only: bool = False


class VolumeKind(StrEnum):
    """The volume sources troth tells apart, by their field in the API."""

    CONFIG_MAP = "configMap"
    SECRET = "secret"  # noqa: S105 - a field's name, not a secret
    EMPTY_DIR = "emptyDir"
    HOST_PATH = "hostPath"
    CLAIM = "persistentVolumeClaim"
    EPHEMERAL = "ephemeral"
    DOWNWARD = "downwardAPI"
    PROJECTED = "projected"
    OTHER = "other"


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a volume from one source: a ConfigMap, a Secret or the pod itself.

    Attributes:
        kind: Which of the three.
        source: The ConfigMap's or Secret's name.
        items: The keys to show and their paths; empty shows all.
        optional: A missing object is no file.
        fields: Of the pod: files by path, and the fields that they hold.
        resources: Of the pod: files by path, and the limits or requests that they hold.
    """

    kind: VolumeKind
    source: str = ""
    items: Mapping[str, str] = {}
    optional: bool = False
    fields: Mapping[str, str] = {}
    resources: Mapping[str, ResourceRef] = {}


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's volume (``Volume``).

    Attributes:
        name: What the mounts call it.
        kind: Where its content comes from.
        source: The claim's name, the host's path, or for ``OTHER`` the API's field.
        files: What is in it, where that comes from the API (ConfigMap, Secret and so on).
        mode: Of those files (``defaultMode``).
        optional: The claim need not be written down.
        read_only: Whatever its mounts say (``persistentVolumeClaim.readOnly``).
    """

    name: str
    kind: VolumeKind
    source: str = ""
    files: tuple[Projection, ...] = ()
    mode: int = 0o644
    optional: bool = False
    read_only: bool = False


CAPABILITIES = frozenset(
    {
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    }
)
"""Those that a local container may have: an engine's usual ones, less MKNOD and NET_RAW."""


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """What of a ``PodSecurityContext`` or ``SecurityContext`` a local runner acts on.

    Attributes:
        user: ``runAsUser``.
        group: ``runAsGroup``.
        groups: ``supplementalGroups``, of a pod only.
        fs_group: ``fsGroup``, of a pod only: the group of its volumes.
        read_only_root: ``readOnlyRootFilesystem``, of a container only.
        not_root: ``runAsNonRoot``; None where it isn't said.
        added: ``capabilities.add``, of a container only, without ``CAP_``.
        dropped: ``capabilities.drop``, of a container only.
    """

    user: int | None = None
    group: int | None = None
    groups: tuple[int, ...] = ()
    fs_group: int | None = None
    read_only_root: bool = False
    not_root: bool | None = None
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def over(self, pod: Security) -> Security:
        """This one of a container, with what it leaves to its pod's."""
        return Security(
            user=pod.user if self.user is None else self.user,
            group=pod.group if self.group is None else self.group,
            groups=pod.groups,
            fs_group=pod.fs_group,
            read_only_root=self.read_only_root,
            not_root=pod.not_root if self.not_root is None else self.not_root,
            added=self.added,
            dropped=self.dropped,
        )

    @property
    def capabilities(self) -> frozenset[str]:
        """What its root may do."""
        kept = frozenset() if "ALL" in self.dropped else CAPABILITIES.difference(self.dropped)
        wanted = CAPABILITIES if "ALL" in self.added else CAPABILITIES.intersection(self.added)
        return kept | wanted

    @property
    def added_in_vain(self) -> tuple[str, ...]:
        """What it asks for and doesn't get, in order."""
        return tuple(sorted({*self.added} - CAPABILITIES))

    @property
    def names_users(self) -> bool:
        """Whether it needs more users than the one who has started the mesh."""
        ids = (self.user, self.group, self.fs_group, *self.groups)
        return bool(self.not_root) or any(number for number in ids if number is not None)


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container (``Container``).

    Attributes:
        name: Unique in its pod.
        image: Kept for display; troth pulls none.
        command: The entry point; empty means the image's, which troth doesn't have.
        args: Its arguments.
        env: Variables in order; later ones may refer to earlier ones.
        env_from: Sources of variables that ``env`` overrides.
        working_dir: Empty for the image's.
        ports: What it declares to listen on.
        host_ports: Those of its TCP ports that are ports of its node, too.
        readiness: When Services may send it connections; None means once it runs.
        liveness: When it counts as dead and is ended, to be started again; None means never.
        startup: What has to succeed before the other two are asked; None means nothing.
        post_start: Done as soon as it has been started (``lifecycle.postStart``).
        pre_stop: Done before it is told to end (``lifecycle.preStop``).
        volume_mounts: Where volumes appear.
        security: As whom it runs, where its pod doesn't say it.
        limits: ``resources.limits``, as they are written.
        requests: ``resources.requests``, as they are written.
        is_sidecar: An init container that goes on running (``restartPolicy: Always``).
    """

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    host_ports: tuple[int, ...] = ()
    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None
    post_start: Hook | None = None
    pre_stop: Hook | None = None
    volume_mounts: tuple[VolumeMount, ...] = ()
    security: Security = Security()
    limits: Mapping[str, str] = {}
    requests: Mapping[str, str] = {}
    is_sidecar: bool = False


class RestartPolicy(StrEnum):
    """When a container that ended is started again (``PodSpec.restartPolicy``)."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class HostAlias(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a pod's ``/etc/hosts`` (``HostAlias``)."""

    ip: str
    hostnames: tuple[str, ...] = ()


class DnsPolicy(StrEnum):
    """Where a pod looks names up (``PodSpec.dnsPolicy``)."""

    CLUSTER_FIRST = "ClusterFirst"
    CLUSTER_FIRST_WITH_HOST_NET = "ClusterFirstWithHostNet"
    DEFAULT = "Default"
    NONE = "None"


class DnsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a pod looks names up (``dnsPolicy``, and ``PodDNSConfig`` that is added to it).

    Attributes:
        policy: What to begin with.
        nameservers: IPs.
        searches: Domains.
        options: Names and values as of resolv.conf(5); a value may be empty.
    """

    policy: DnsPolicy = DnsPolicy.CLUSTER_FIRST
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()


class PodTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """What pods are made from: a bare Pod, or the template of a workload.

    Attributes:
        namespace: Where its pods live.
        name: The Pod's own name, or the workload's (whose pods add a suffix to it).
        labels: What policies and Services select by.
        annotations: Free text of the manifest.
        service_account: The name that becomes the workload's identity.
        containers: Run together, at least one.
        init_containers: Run one after the other before them; sidecars among them go on beside them.
        volumes: What containers may mount.
        restart_policy: Applies to every container.
        hostname: Empty for the pod's name.
        subdomain: The headless Service that gives the pod a DNS name of its own.
        fqdn_as_hostname: ``setHostnameAsFQDN``: the kernel's hostname is the full name.
        host_aliases: Lines of its ``/etc/hosts``.
        dns: How it looks names up.
        unsupported: Fields of its spec that a local runner doesn't act on.
        host_network: It shares the node's network namespace, and so can't be captured.
        enable_service_links: Services appear as environment variables.
        deadline: Seconds after which it is ended (``activeDeadlineSeconds``); None for never.
        termination_grace_seconds: How long it may take to end once it is to, ``preStop`` included.
        security: As whom its containers run.
        owner: The workload's name, empty for a bare Pod.
        owner_kind: The workload's kind, empty for a bare Pod.
        location: Where the manifest stands.
    """

    namespace: str
    name: str
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    service_account: str = "default"
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    hostname: str = ""
    subdomain: str = ""
    fqdn_as_hostname: bool = False
    host_aliases: tuple[HostAlias, ...] = ()
    dns: DnsConfig = DnsConfig()
    unsupported: tuple[str, ...] = ()
    host_network: bool = False
    enable_service_links: bool = True
    deadline: int | None = None
    termination_grace_seconds: int = 30
    security: Security = Security()
    owner: str = ""
    owner_kind: str = ""
    location: Location | None = None

    @property
    def ports(self) -> tuple[ContainerPort, ...]:
        """What all its containers declare, in order."""
        return tuple(port for each in self.lasting_containers for port in each.ports)

    @property
    def lasting_containers(self) -> tuple[Container, ...]:
        """Its containers and its sidecars: all that go on."""
        return (*self.containers, *(each for each in self.init_containers if each.is_sidecar))

    @property
    def host_ports(self) -> tuple[int, ...]:
        """Those of its TCP ports that are ports of its node, too."""
        return tuple(port for container in self.containers for port in container.host_ports)

    @property
    def owner_key(self) -> str:
        """``NAMESPACE/NAME`` of its workload; empty for a bare Pod."""
        return f"{self.namespace}/{self.owner}" if self.owner else ""

    def __str__(self) -> str:
        return f"{self.owner_kind or 'Pod'} {self.namespace}/{self.name}"


class StatefulSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a StatefulSet says of its pods beside their number (``StatefulSetSpec``).

    Attributes:
        service: The headless Service below which each has a name (``serviceName``).
        start: The first pod's ordinal (``ordinals.start``).
        at_once: ``podManagementPolicy: Parallel``: none waits for the one before it.
        claims: The names of ``volumeClaimTemplates``.
    """

    service: str = ""
    start: int = 0
    at_once: bool = False
    claims: tuple[str, ...] = ()


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a Job says of its pods (``JobSpec``).

    Attributes:
        completions: How many have to succeed; None if one that succeeds is the sign for all.
        parallelism: How many run at the same time.
        backoff_limit: How many failures it bears.
        deadline: Seconds that it may take (``activeDeadlineSeconds``); None for any.
        indexed: ``completionMode: Indexed``: each pod has a number of its own.
        suspended: ``suspend``: it has no pods for now.
        kept: Seconds for which its pods are kept once it is over; None for ever.
    """

    completions: int | None = 1
    parallelism: int = 1
    backoff_limit: int = 6
    deadline: int | None = None
    indexed: bool = False
    suspended: bool = False
    kept: int | None = None


class Concurrency(StrEnum):
    """What becomes of a CronJob's run while the one before it goes on (``concurrencyPolicy``)."""

    ALLOW = "Allow"
    FORBID = "Forbid"
    REPLACE = "Replace"


class CronSpec(msgspec.Struct, frozen=True, kw_only=True):
    """When a CronJob makes a Job (``CronJobSpec``).

    Attributes:
        schedule: As of cron, in five fields or as a macro such as ``@hourly``.
        time_zone: Its name; empty for that of this machine.
        concurrency: What becomes of a run while the one before it goes on.
        starting_deadline: Seconds by which a run may be late; None for any.
        suspended: ``suspend``: there are no more runs for now.
        kept_successful: How many Jobs that succeeded are kept.
        kept_failed: How many Jobs that failed are kept.
    """

    schedule: str
    time_zone: str = ""
    concurrency: Concurrency = Concurrency.ALLOW
    starting_deadline: int | None = None
    suspended: bool = False
    kept_successful: int = 3
    kept_failed: int = 1


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A controller of pods: Deployment, StatefulSet, DaemonSet, ReplicaSet, Job and so on.

    Attributes:
        kind: Which of them.
        namespace: Its namespace.
        name: Its name.
        replicas: How many pods; 1 for kinds without the field.
        selector: ``spec.selector.matchLabels``; empty for kinds that need none.
        template: What its pods are made from.
        stateful: Of a StatefulSet only.
        job: Of a Job and a CronJob only.
        cron: Of a CronJob only.
        unsupported: Fields of its spec that a local mesh doesn't act on, by path.
        location: Where the manifest stands.
    """

    kind: str
    namespace: str
    name: str
    replicas: int = 1
    selector: Mapping[str, str] = {}
    template: PodTemplate
    stateful: StatefulSpec | None = None
    job: JobSpec | None = None
    cron: CronSpec | None = None
    unsupported: tuple[str, ...] = ()
    location: Location | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Deployment(Workload, frozen=True, kw_only=True):
    """An apps/v1 Deployment."""

    kind: str = "Deployment"


class ConfigMap(msgspec.Struct, frozen=True, kw_only=True):
    """A v1 ConfigMap, ``binaryData`` decoded."""

    namespace: str
    name: str
    data: Mapping[str, str] = {}
    binary_data: Mapping[str, bytes] = {}
    location: Location | None = None


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A v1 Secret, ``data`` decoded and ``stringData`` merged over it; its repr hides values."""

    namespace: str
    name: str
    type: str = "Opaque"
    data: Mapping[str, bytes] = {}
    location: Location | None = None

    def __repr__(self) -> str:
        return f"Secret(namespace={self.namespace!r}, name={self.name!r}, keys={sorted(self.data)})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("namespace", self.namespace), ("name", self.name), ("keys", sorted(self.data))]


class ServiceAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A v1 ServiceAccount: only its name matters."""

    namespace: str
    name: str
    location: Location | None = None


class VolumeClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A v1 PersistentVolumeClaim: only its name matters, as there is one kind of storage here."""

    namespace: str
    name: str
    location: Location | None = None


class ServicePortSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a Service (``ServicePort``).

    Attributes:
        number: The virtual IP's port.
        target: ``targetPort``: a number, or the name of a container's port.
        name: Needed when there are several.
        protocol: The transport.
    """

    number: int
    target: int | str
    name: str = ""
    protocol: Protocol = Protocol.TCP


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A v1 Service as it is asked for; addresses are still to be given.

    Attributes:
        namespace: Its namespace.
        name: Its name.
        type: ``ClusterIP``, ``NodePort``, ``LoadBalancer`` or ``ExternalName``.
        selector: The pods behind it; empty means that none are chosen.
        cluster_ip: Empty to be given one, ``None`` (the word) for a headless Service, or an IP.
        cluster_ips: ``clusterIPs``, when it asks for particular ones.
        ip_families: ``ipFamilies`` as written; `families` are those that it has.
        ip_family_policy: ``ipFamilyPolicy`` as written; `family_policy` is the one in force.
        ports: What it offers.
        publish_not_ready: Endpoints count before they are ready (``publishNotReadyAddresses``).
        client_ip_affinity: ``sessionAffinity: ClientIP``.
        external_ips: ``externalIPs``, at which nodes take connections to it.
        external_name: The DNS name an ``ExternalName`` Service stands for.
        unsupported: Fields of its spec that a local mesh doesn't act on.
        location: Where the manifest stands.
    """

    namespace: str
    name: str
    type: str = "ClusterIP"
    selector: Mapping[str, str] = {}
    cluster_ip: str = ""
    cluster_ips: tuple[str, ...] = ()
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str = ""
    ports: tuple[ServicePortSpec, ...] = ()
    publish_not_ready: bool = False
    client_ip_affinity: bool = False
    external_ips: tuple[str, ...] = ()
    external_name: str = ""
    unsupported: tuple[str, ...] = ()
    location: Location | None = None

    @property
    def headless(self) -> bool:
        """Whether it has no virtual IP, only its endpoints' addresses."""
        return self.cluster_ip == "None"

    @property
    def requested_ips(self) -> tuple[str, ...]:
        """The virtual IPs that it asks for, the primary one first."""
        if self.headless:
            return ()
        return self.cluster_ips or ((self.cluster_ip,) if self.cluster_ip else ())

    @property
    def family_policy(self) -> str:
        """``ipFamilyPolicy`` as an API server defaults it (``initIPFamilyFields``)."""
        unselective = "RequireDualStack" if self.headless and not self.selector else "SingleStack"
        return self.ip_family_policy or unselective

    def families(self, available: Sequence[str] = ("IPv4", "IPv6")) -> tuple[str, ...]:
        """``ipFamilies`` as an API server defaults them: single-stack IPv4 unless asked otherwise.

        Args:
            available: The families that there are to have addresses of, the default one first.
        """
        inferred = [f"IPv{ip_address(each).version}" for each in self.requested_ips]
        families = (*self.ip_families, *inferred[len(self.ip_families) :]) or (available[0],)
        if self.family_policy == "SingleStack" or len(families) > 1:
            return families
        # Nobody has to be able to reach what a headless Service without a selector lists.
        both = ("IPv4", "IPv6") if self.headless and not self.selector else available
        return (*families, *(each for each in both if each not in families))


class EndpointPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port that all endpoints of a slice have; the Service's port of that name leads there."""

    number: int
    name: str = ""
    protocol: Protocol = Protocol.TCP


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of a slice.

    Attributes:
        address: Its IP.
        hostname: The name that it has below the Service's; empty for one made of its address.
        ready: It takes connections.
        serving: The same, but for its termination.
        terminating: It ends.
        pod: ``NAMESPACE/NAME`` of the Pod that it says it is (``targetRef``), or empty.
    """

    address: str
    hostname: str = ""
    pod: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False


class EndpointSliceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A discovery.k8s.io/v1 EndpointSlice.

    Attributes:
        namespace: Its namespace.
        name: Its name.
        service: The Service whose endpoints it holds (``kubernetes.io/service-name``), or empty.
        family: ``IPv4`` or ``IPv6``, of all its addresses.
        ports: What all of its endpoints have.
        endpoints: The endpoints.
        by_controller: It says that the controller has made it that follows Services' selectors.
        location: Where the manifest stands.
    """

    namespace: str
    name: str
    service: str
    family: str
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[EndpointSpec, ...] = ()
    by_controller: bool = False
    location: Location | None = None


class EndpointsSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A v1 Endpoints; it is of the Service that has its name.

    Attributes:
        namespace: Its namespace.
        name: Its name.
        slices: What it is as EndpointSlices.
        is_mirrored: Whether it wants to be taken for those.
        location: Where the manifest stands.
    """

    namespace: str
    name: str
    slices: tuple[EndpointSliceSpec, ...] = ()
    is_mirrored: bool = True
    location: Location | None = None
