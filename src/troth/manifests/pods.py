"""Pods, what they call themselves, and the workloads that make them from a template."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from troth.manifests import api, runnable
from troth.manifests.containers import read_container, read_resource, read_security
from troth.manifests.workloads import (
    Concurrency,
    Container,
    CronSpec,
    Deployment,
    DnsConfig,
    DnsPolicy,
    HostAlias,
    JobSpec,
    PodTemplate,
    Projection,
    ResourceRef,
    RestartPolicy,
    StatefulSpec,
    Volume,
    VolumeKind,
    Workload,
)
from troth.syntax import NAME, NAMESPACE, Rule, described, is_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.fields import Fields
    from troth.manifests.kinds import Source

MOST_NAME_SERVERS = 3
MOST_SEARCHES = 32
LONGEST_SEARCH_LIST = 2048
"""Characters, with a space between each two."""

_SEARCH_LABEL = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SEARCH = Rule(
    pattern=re.compile(rf"{_SEARCH_LABEL}(\.{_SEARCH_LABEL})*\.?|\."),
    longest=254,
    wanted="write a DNS domain such as corp.example",
)
_OPTION = Rule(
    pattern=re.compile(r"[!-~]+"), longest=255, wanted="write one word, as in resolv.conf(5)"
)


def read_host_aliases(spec: Fields) -> tuple[HostAlias, ...]:
    """``hostAliases`` of a pod's spec."""
    found = []
    for alias in spec.each("hostAliases"):
        alias.only(("ip", "hostnames"))
        names = alias.strings("hostnames")
        for index, name in enumerate(names):
            if flaw := NAME.flaw(name):
                alias.report.error(f"{alias.at('hostnames')}[{index}]", *flaw)
        given = alias.needed("ip", "write the IP that the names stand for")
        ip = alias.plain_address(alias.at("ip"), given)
        if ip and not is_address(ip):
            alias.error("ip", f"is {described(ip)}", "write an IP")
        found.append(HostAlias(ip=ip, hostnames=names))
    return tuple(found)


def read_dns(spec: Fields) -> DnsConfig:
    """``dnsPolicy`` and ``dnsConfig`` of a pod's spec, checked as an API server does."""
    policy = spec.choice("dnsPolicy", DnsPolicy, DnsPolicy.CLUSTER_FIRST)
    config = spec.fields("dnsConfig")
    config.only(api.names("PodDNSConfig"))
    servers = config.strings("nameservers")
    for index, server in enumerate(servers):
        if not is_address(server):
            path = f"{config.at('nameservers')}[{index}]"
            config.report.error(path, f"is {described(server)}", "write an IP")
    if policy is DnsPolicy.NONE and not config.items("nameservers"):
        config.missing("nameservers", "name one, as dnsPolicy None leaves the pod without any")
    _at_most(config, "nameservers", servers, MOST_NAME_SERVERS)
    searches = config.strings("searches")
    for index, search in enumerate(searches):
        if flaw := _SEARCH.flaw(search):
            config.report.error(f"{config.at('searches')}[{index}]", *flaw)
    _at_most(config, "searches", searches, MOST_SEARCHES)
    if len(" ".join(searches)) > LONGEST_SEARCH_LIST:
        found = f"has more than {LONGEST_SEARCH_LIST} characters"
        config.error("searches", found, "leave some out")
    return DnsConfig(
        policy=policy,
        nameservers=servers,
        searches=searches,
        options=tuple(
            (
                option.needed("name", "name the option, such as ndots", rule=_OPTION),
                option.string("value", rule=_OPTION),
            )
            for option in config.each("options")
        ),
    )


def _at_most(fields: Fields, name: str, given: tuple[str, ...], most: int) -> None:
    if len(given) > most:
        fields.error(name, f"has {len(given)} of them", f"give no more than {most}")


_KEYED = {VolumeKind.CONFIG_MAP: "name", VolumeKind.SECRET: "secretName"}
_PROJECTED = {VolumeKind.CONFIG_MAP, VolumeKind.SECRET, VolumeKind.DOWNWARD}


def parse_pod(source: Source) -> PodTemplate:
    """A v1 Pod."""
    return _template(source, source.top, owner=False, volumes=())


def parse_deployment(source: Source) -> Deployment:
    """An apps/v1 Deployment."""
    return Deployment(**msgspec.structs.asdict(parse_workload(source)))


def parse_workload(source: Source) -> Workload:
    """Any controller that has a pod template at ``spec.template``."""
    spec = source.top.fields("spec")
    kind = f"{source.kind}Spec"
    spec.only(api.names(kind))
    stateful = _stateful(spec) if source.kind == "StatefulSet" else None
    cron = _cron(spec) if source.kind == "CronJob" else None
    holder = spec.fields("jobTemplate").fields("spec") if cron else spec
    if cron:
        holder.only(api.names("JobSpec"))
    job = _job(holder) if source.kind in {"Job", "CronJob"} else None
    if "template" not in holder:
        holder.missing("template", "describe the pods to make")
    claims = stateful.claims if stateful else ()
    template = _template(source, holder.fields("template"), owner=True, volumes=claims)
    path = f"{holder.at('template')}.spec.restartPolicy"
    if job and template.restart_policy is RestartPolicy.ALWAYS:
        source.report.error(path, "is Always", "write OnFailure or Never")
    if not job and template.restart_policy is not RestartPolicy.ALWAYS:
        found = f"is {template.restart_policy}"
        source.report.error(path, found, f"write Always, the only one a {source.kind} allows")
    selector: dict[str, str] = {}
    if source.kind in api.SELECTING:
        selector = _selector(spec, template)
    elif source.kind == "ReplicationController":
        selector = spec.labels("selector") or dict(template.labels)
    return Workload(
        kind=source.kind,
        namespace=source.namespace,
        name=source.name,
        replicas=spec.integer("replicas", 1),
        selector=selector,
        template=template,
        stateful=stateful,
        job=job,
        cron=cron,
        unsupported=tuple(runnable.unused(spec, kind, "spec.")),
        location=source.location,
    )


class _Order(StrEnum):
    ORDERED = "OrderedReady"
    PARALLEL = "Parallel"


class _Completion(StrEnum):
    ANY = "NonIndexed"
    INDEXED = "Indexed"


def _stateful(spec: Fields) -> StatefulSpec:
    order = spec.choice("podManagementPolicy", _Order, _Order.ORDERED)
    return StatefulSpec(
        service=spec.string("serviceName", rule=NAMESPACE),
        start=spec.fields("ordinals").integer("start", 0),
        at_once=order is _Order.PARALLEL,
        claims=tuple(
            claim.fields("metadata").needed("name", "name the claim", rule=NAMESPACE)
            for claim in spec.each("volumeClaimTemplates")
        ),
    )


def _job(spec: Fields) -> JobSpec:
    mode = spec.choice("completionMode", _Completion, _Completion.ANY)
    indexed = mode is _Completion.INDEXED
    if indexed and "completions" not in spec:
        spec.missing("completions", "say how many indexes there are, as completionMode is Indexed")
    # The API's defaults: without both there is one pod, without completions a queue of work.
    alone = 1 if "parallelism" not in spec or indexed else None
    return JobSpec(
        completions=spec.integer("completions", 1) if "completions" in spec else alone,
        parallelism=spec.integer("parallelism", 1),
        backoff_limit=spec.integer("backoffLimit", 6),
        deadline=_seconds(spec, "activeDeadlineSeconds", low=1),
        indexed=indexed,
        suspended=spec.boolean("suspend"),
        kept=_seconds(spec, "ttlSecondsAfterFinished"),
    )


def _cron(spec: Fields) -> CronSpec:
    return CronSpec(
        schedule=spec.needed("schedule", 'write when it runs, such as "*/5 * * * *"'),
        time_zone=spec.string("timeZone"),
        concurrency=spec.choice("concurrencyPolicy", Concurrency, Concurrency.ALLOW),
        starting_deadline=_seconds(spec, "startingDeadlineSeconds"),
        suspended=spec.boolean("suspend"),
        kept_successful=spec.integer("successfulJobsHistoryLimit", 3),
        kept_failed=spec.integer("failedJobsHistoryLimit", 1),
    )


def _seconds(spec: Fields, name: str, *, low: int = 0) -> int | None:
    return spec.integer(name, low, low=low) if name in spec else None


def _selector(spec: Fields, template: PodTemplate) -> dict[str, str]:
    if "selector" not in spec:
        spec.missing("selector", "select the pods by labels of the template")
        return {}
    fields = spec.fields("selector")
    fields.only(("matchLabels", "matchExpressions"))
    selector = fields.labels("matchLabels")
    if not selector and not fields.items("matchExpressions"):
        spec.error("selector", "is empty", "name a label of the template in matchLabels")
    for key, value in selector.items():
        has = template.labels.get(key)
        if has != value:
            label = f"{key}: {described(has)}" if has is not None else f"no label {key}"
            fields.report.error(
                f"{fields.at('matchLabels')}[{key}]",
                f"is {described(value)}, but the template has {label}",
                "let the selector match the template's labels",
            )
    return selector


def _template(
    source: Source, fields: Fields, *, owner: bool, volumes: Iterable[str]
) -> PodTemplate:
    metadata, spec = fields.fields("metadata"), fields.fields("spec")
    spec.only(api.names("PodSpec"))
    own_volumes = _volumes(spec)
    init_containers = tuple(read_container(each, init=True) for each in spec.each("initContainers"))
    containers = tuple(read_container(each) for each in spec.each("containers"))
    if "containers" not in spec or spec.value("containers") == []:
        spec.missing("containers", "list at least one container")
    names = {volume.name for volume in own_volumes} | set(volumes)
    _check_containers(spec, "initContainers", init_containers, names)
    _check_containers(spec, "containers", containers, names)
    _refuse_duplicates(
        spec, "containers", "the container", [c.name for c in (*init_containers, *containers)]
    )
    grace = spec.integer("terminationGracePeriodSeconds", 30, low=-(2**31))
    if grace < 0:  # as the API server has it
        grace = 1
    _check_hooks(spec, "containers", containers, grace)
    # serviceAccount is serviceAccountName's deprecated alias.
    account = spec.string("serviceAccount", "default", rule=NAME) or "default"
    default = RestartPolicy.ALWAYS if source.kind not in ("Job", "CronJob") else RestartPolicy.NEVER
    return PodTemplate(
        namespace=source.namespace,
        name=source.name,
        labels=metadata.labels("labels"),
        annotations=metadata.annotations("annotations"),
        service_account=spec.string("serviceAccountName", account, rule=NAME) or account,
        containers=containers,
        init_containers=init_containers,
        volumes=own_volumes,
        restart_policy=spec.choice("restartPolicy", RestartPolicy, default),
        hostname=spec.string("hostname", rule=NAMESPACE),
        subdomain=spec.string("subdomain", rule=NAMESPACE),
        fqdn_as_hostname=spec.boolean("setHostnameAsFQDN"),
        host_aliases=read_host_aliases(spec),
        dns=read_dns(spec),
        unsupported=(
            *runnable.unused(spec, "PodSpec"),
            *(
                f"{group}[{index}].restartPolicy"
                for group, read in (("initContainers", init_containers), ("containers", containers))
                for index, each in enumerate(spec.each(group))
                if "restartPolicy" in each and not read[index].is_sidecar
            ),
        ),
        host_network=spec.boolean("hostNetwork"),
        enable_service_links=spec.boolean("enableServiceLinks", default=True),
        deadline=_seconds(spec, "activeDeadlineSeconds", low=1),
        termination_grace_seconds=grace,
        security=read_security(spec),
        owner=source.name if owner else "",
        owner_kind=source.kind if owner else "",
        location=source.location,
    )


def _check_containers(
    spec: Fields, field: str, containers: tuple[Container, ...], volumes: set[str]
) -> None:
    for index, container in enumerate(containers):
        for mount in container.volume_mounts:
            if mount.name and mount.name not in volumes:
                spec.report.error(
                    f"{spec.at(field)}[{index}].volumeMounts",
                    f"mounts {described(mount.name)}, which is no volume of the pod",
                    "add it to spec.volumes, or correct the name",
                )


def _check_hooks(spec: Fields, field: str, containers: tuple[Container, ...], grace: int) -> None:
    for index, container in enumerate(containers):
        hooks = {"postStart": container.post_start, "preStop": container.pre_stop}
        for name, hook in hooks.items():
            if hook is not None and hook.sleep is not None and hook.sleep > grace:
                spec.report.error(
                    f"{spec.at(field)}[{index}].lifecycle.{name}.sleep.seconds",
                    f"is {hook.sleep}, more than terminationGracePeriodSeconds, {grace}",
                    f"write {grace} or less, or a longer grace period",
                )


def _refuse_duplicates(spec: Fields, field: str, what: str, names: list[str]) -> None:
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        spec.error(field, f"has {what} {described(name)} twice", "give each a name of its own")


def _volumes(spec: Fields) -> tuple[Volume, ...]:
    volumes = tuple(_volume(fields) for fields in spec.each("volumes"))
    _refuse_duplicates(spec, "volumes", "the volume", [volume.name for volume in volumes])
    return volumes


def _volume(fields: Fields) -> Volume:
    name = fields.needed("name", "name the volume", rule=NAMESPACE)
    given = [field for field in fields if field != "name" and field in fields]
    if len(given) != 1:
        # Without a source the API makes an emptyDir.
        if given:
            found = f"has {' and '.join(map(described, given))}"
            fields.report.error(fields.path, found, "keep one source")
        return Volume(name=name, kind=VolumeKind.EMPTY_DIR)
    field = given[0]
    if field not in set(VolumeKind) - {VolumeKind.OTHER}:
        return Volume(name=name, kind=VolumeKind.OTHER, source=field)
    kind, source = VolumeKind(field), fields.fields(field)
    if kind in {VolumeKind.EMPTY_DIR, VolumeKind.EPHEMERAL}:
        return Volume(name=name, kind=kind)
    if kind is VolumeKind.CLAIM:
        claim = source.needed("claimName", "name the claim", rule=NAME)
        return Volume(name=name, kind=kind, source=claim, read_only=source.boolean("readOnly"))
    if kind is VolumeKind.HOST_PATH:
        path = source.needed("path", "write the host's path")
        return Volume(name=name, kind=kind, source=path)
    return Volume(
        name=name,
        kind=kind,
        files=_projections(source, kind),
        mode=source.integer("defaultMode", 0o644, high=0o777),
    )


def _projections(source: Fields, kind: VolumeKind) -> tuple[Projection, ...]:
    if kind is not VolumeKind.PROJECTED:
        return (_projection(source, kind),)
    files = []
    for each in source.each("sources"):
        given = [member for member in each if member in each]
        if len(given) != 1:
            each.report.error(each.path, f"has {len(given)} sources", "write one in each")
        elif given[0] in _PROJECTED:
            files.append(_projection(each.fields(given[0]), VolumeKind(given[0]), "name"))
    return tuple(files)


def _projection(source: Fields, kind: VolumeKind, key: str = "") -> Projection:
    if kind is not VolumeKind.DOWNWARD:
        return Projection(
            kind=kind,
            source=source.needed(key or _KEYED[kind], "name the object to show"),
            items={
                item.needed("key", "name a key"): _inside(item, "path")
                for item in source.each("items")
            },
            optional=source.boolean("optional"),
        )
    paths: dict[str, str] = {}
    resources: dict[str, ResourceRef] = {}
    for item in source.each("items"):
        path = _inside(item, "path")
        if "resourceFieldRef" in item:
            resources[path] = read_resource(item.fields("resourceFieldRef"))
        else:
            field = item.fields("fieldRef")
            paths[path] = field.needed("fieldPath", "name a field, such as metadata.labels")
    return Projection(kind=kind, fields=paths, resources=resources)


def _inside(fields: Fields, name: str) -> str:
    """A relative path that can't leave its volume."""
    path = fields.needed(name, "write the file's path in the volume")
    if path.startswith("/") or ".." in path.split("/"):
        fields.error(name, f"is {described(path)}", "write a relative path without '..'")
        return ""
    return path
