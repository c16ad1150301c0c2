"""What a container gets by its pod's manifest, as the kubelet would give it.

Its environment and command line, and its volumes as directories that are ready to be mounted.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from troth.errors import InputError, Problem
from troth.local.hosts import kernel_hostname
from troth.local.launch import Bind, open_beneath, users
from troth.manifests.containers import expand
from troth.manifests.workloads import ConfigMap, Secret, VolumeKind
from troth.mesh.model import Service

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.manifests.workloads import (
        Container,
        EnvVar,
        KeyRef,
        PodTemplate,
        Projection,
        ResourceRef,
        Volume,
        VolumeMount,
    )
    from troth.mesh.model import Pod

_MAP_FIELD = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]", re.DOTALL)
_FROM_HOST = ("PATH", "HOME", "LANG")
_KINDS = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
_MAPS = {VolumeKind.CONFIG_MAP: "ConfigMap", VolumeKind.SECRET: "Secret"}
_OF_FILES = frozenset({*_MAPS, VolumeKind.DOWNWARD, VolumeKind.PROJECTED})

_EMPTY_AT_FIRST = frozenset({VolumeKind.EMPTY_DIR, VolumeKind.EPHEMERAL, VolumeKind.CLAIM})

_EVERYBODYS = 0o777
"""An emptyDir's mode, as the kubelet has it: a container's processes may have several users."""

_QUANTITY = re.compile(r"([+-]?[0-9.]+)(?:[eE]([+-]?[0-9]+)|([a-zA-Z]*))")
_SUFFIXES = {
    "": Decimal(1),
    **{unit: Decimal(10) ** (3 * power) for power, unit in enumerate("num", -3)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


class EnvironmentSources(msgspec.Struct, frozen=True, kw_only=True):
    """What a container's environment and volumes may refer to.

    Attributes:
        config_maps: By ``NAMESPACE/NAME``.
        secrets: By ``NAMESPACE/NAME``.
        claims: PersistentVolumeClaims, by ``NAMESPACE/NAME``.
        claims_directory: Where they are kept, each as ``NAMESPACE/NAME``.
        services: Those of every namespace.
        host_addresses: ``status.hostIPs``, the primary one first.
    """

    config_maps: Mapping[str, ConfigMap] = {}
    secrets: Mapping[str, Secret] = {}
    claims: Collection[str] = ()
    claims_directory: Path = Path()
    services: tuple[Service, ...] = ()
    host_addresses: tuple[str, ...] = ()


def from_host(environ: Mapping[str, str]) -> dict[str, str]:
    """What an image would bring and a local process has from the host: PATH, HOME and LANG."""
    return {name: environ[name] for name in _FROM_HOST if name in environ}


def environment(
    container: Container,
    template: PodTemplate,
    pod: Pod,
    sources: EnvironmentSources,
    base: Mapping[str, str],
) -> dict[str, str]:
    """All variables of a container; later sources replace earlier ones.

    In order: ``base``, HOSTNAME, the Services of the pod's namespace (``enableServiceLinks``),
    ``envFrom`` and ``env``.

    Raises:
        InputError: A reference that is not optional leads nowhere; all of them are listed.
    """
    problems: list[Problem] = []
    own: dict[str, str] = {}
    subject = f"Pod {pod}"
    links = dict(_links(pod.namespace, sources.services)) if template.enable_service_links else {}
    for index, source in enumerate(container.env_from):
        kind, name = (
            ("configMapRef", source.config_map)
            if source.config_map
            else ("secretRef", source.secret)
        )
        data = _data(kind, f"{pod.namespace}/{name}", sources)
        if data is not None:
            own |= {f"{source.prefix}{key}": text for key, text in data.items() if "=" not in key}
        elif not source.optional:
            path = f"spec.containers[{container.name}].envFrom[{index}].{kind}.name"
            problems.append(_missing(subject, path, f"there is no {_KINDS[kind]} {name!r}"))
    for variable in container.env:
        try:
            value = _value(
                variable,
                {**links, **own},
                template=template,
                container=container,
                pod=pod,
                sources=sources,
            )
        except _NowhereError as error:
            path = f"spec.containers[{container.name}].env[{variable.name}].valueFrom"
            problems.append(_missing(subject, path, str(error)))
        else:
            if value is not None:
                own[variable.name] = value
    if problems:
        raise InputError(problems)
    hostname = {"HOSTNAME": kernel_hostname(template)}
    return {**base, **hostname, **links, **own}


def command_line(container: Container, env: Mapping[str, str]) -> list[str]:
    """``command`` and ``args`` with ``$(VAR)`` expanded."""
    return [expand(word, env) for word in (*container.command, *container.args)]


class _NowhereError(Exception):
    """A reference leads nowhere, or to what cannot be used."""


def _value(
    variable: EnvVar,
    known: Mapping[str, str],
    *,
    template: PodTemplate,
    container: Container,
    pod: Pod,
    sources: EnvironmentSources,
) -> str | None:
    if variable.config_map_key is not None:
        return _key("configMapRef", variable.config_map_key, pod.namespace, sources)
    if variable.secret_key is not None:
        return _key("secretRef", variable.secret_key, pod.namespace, sources)
    if variable.resource is not None:
        return _resource(variable.resource, template, container)
    if variable.field_path is not None:
        return _field(variable.field_path, template, pod, sources)
    return expand(variable.value, known)


def _key(kind: str, ref: KeyRef, namespace: str, sources: EnvironmentSources) -> str | None:
    data = _data(kind, f"{namespace}/{ref.name}", sources)
    if data is not None and ref.key in data:
        return data[ref.key]
    if ref.optional:
        return None
    what = f"{_KINDS[kind]} {ref.name!r}"
    raise _NowhereError(f"there is no {what}" if data is None else f"{what} has no key {ref.key!r}")


def _data(kind: str, key: str, sources: EnvironmentSources) -> Mapping[str, str] | None:
    if kind == "configMapRef":
        config_map = sources.config_maps.get(key)
        return None if config_map is None else config_map.data
    secret = sources.secrets.get(key)
    # Bytes that are no UTF-8 come out of the environment as they went in (PEP 383).
    return None if secret is None else {k: os.fsdecode(v) for k, v in secret.data.items()}


def _field(
    path: str,
    template: PodTemplate,
    pod: Pod,
    sources: EnvironmentSources,
    *,
    whole: bool = False,
) -> str:
    """A field of the pod; with ``whole``, as in a file, also all its labels or annotations."""
    maps = {"metadata.labels": pod.labels, "metadata.annotations": template.annotations}
    if whole and path in maps:
        return "\n".join(f"{key}={json.dumps(text)}" for key, text in sorted(maps[path].items()))
    if found := _MAP_FIELD.fullmatch(path):
        values = pod.labels if found[1] == "labels" else template.annotations
        return values.get(found[2], "")
    fields = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": pod.node,
        "spec.serviceAccountName": pod.service_account,
        "status.podIP": next(iter(pod.addresses), ""),
        "status.podIPs": ",".join(pod.addresses),
        "status.hostIP": next(iter(sources.host_addresses), ""),
        "status.hostIPs": ",".join(sources.host_addresses),
    }
    if path not in fields:
        raise _NowhereError(f"there is no field {path!r}")
    return fields[path]


def _resource(ref: ResourceRef, template: PodTemplate, asking: Container) -> str:
    """A limit or request as a number; what isn't limited may take all of the machine."""
    containers = (*template.containers, *template.init_containers)
    of = next((each for each in containers if each.name == ref.container), None)
    if ref.container and of is None:
        raise _NowhereError(f"the pod has no container {ref.container!r}")
    kind, _, name = ref.resource.partition(".")
    if kind not in {"limits", "requests"}:
        raise _NowhereError(f"there is no resource {ref.resource!r}")
    of = of or asking
    given = of.limits.get(name, "")
    if kind == "requests":
        given = of.requests.get(name) or given or "0"
    if not given:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        given = {"cpu": str(os.cpu_count() or 1), "memory": str(pages)}.get(name, "0")
    return str(math.ceil(quantity(given) / (quantity(ref.divisor) or 1)))


def quantity(text: str) -> Decimal:
    """The number that a valid ``resource.Quantity`` stands for, such as 134217728 for ``128Mi``."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return Decimal(0)
    number, exponent, suffix = match.groups()
    return Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""])


def _links(namespace: str, services: Iterable[Service]) -> Iterator[tuple[str, str]]:
    """``PAYMENTS_SERVICE_HOST`` and so on, and the older variables of Docker's links."""
    for service in services:
        if service.namespace != namespace or not service.cluster_ips or not service.ports:
            continue
        prefix = service.name.upper().replace("-", "_")
        address = service.cluster_ips[0]
        authority = f"[{address}]" if ":" in address else address
        yield f"{prefix}_SERVICE_HOST", address
        yield f"{prefix}_SERVICE_PORT", str(service.ports[0].number)
        for index, port in enumerate(service.ports):
            if port.name:
                yield (
                    f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}",
                    str(port.number),
                )
            protocol = port.protocol.lower()
            url = f"{protocol}://{authority}:{port.number}"
            if index == 0:
                yield f"{prefix}_PORT", url
            stem = f"{prefix}_PORT_{port.number}_{port.protocol}"
            yield stem, url
            yield f"{stem}_PROTO", protocol
            yield f"{stem}_PORT", str(port.number)
            yield f"{stem}_ADDR", address


def _missing(subject: str, path: str, found: str) -> Problem:
    wanted = "create it, correct the reference, or mark it optional"
    return Problem(subject=subject, path=path, found=found, wanted=wanted)


def mount_volumes(
    container: Container,
    template: PodTemplate,
    sources: EnvironmentSources,
    directory: Path,
    *,
    pod: Pod,
    env: Mapping[str, str],
) -> list[Bind]:
    """Brings the volumes of a container up to date and says what is to appear where.

    A ConfigMap or Secret is always read-only, as in Kubernetes. A volume of a kind that a local
    pod cannot have is left out; `troth.manifests.runnable.runnable_problems` warns of it.

    Args:
        container: Whose ``volumeMounts`` these are.
        template: The pod's, with the volumes.
        sources: Where ConfigMaps and Secrets are.
        directory: Keeps the pod's volumes from one container to the next.
        pod: The pod.
        env: The container's environment, for ``subPathExpr``.

    Raises:
        InputError: A ConfigMap, Secret or path that is not optional is missing; all are listed.
    """
    volumes = {volume.name: volume for volume in template.volumes}
    problems: list[Problem] = []
    binds: list[Bind] = []
    for index, mount in enumerate(container.volume_mounts):
        volume = volumes.get(mount.name)
        if volume is None or volume.kind is VolumeKind.OTHER:
            continue
        try:
            inside = _sub_path(mount, env)
            root = _root(volume, mount, template, sources, directory / volume.name)
            if volume.kind in _OF_FILES:
                files = _files(volume, template, container, pod, sources)
                _write_files(root, files, volume.mode, group=_group(template))
            _look(root, inside, volume)
        except _NowhereError as error:
            problems.append(
                Problem(
                    subject=str(template),
                    path=f"spec.containers[{container.name}].volumeMounts[{index}]",
                    found=str(error),
                    wanted="create it, correct the reference, or mark the volume optional",
                )
            )
            continue
        read_only = mount.read_only or volume.read_only or volume.kind in _OF_FILES
        target = os.path.normpath("/" + mount.mount_path.lstrip("/"))
        binds.append(
            Bind(
                source=str(root),
                inside=inside,
                target=target,
                read_only=read_only,
                own=volume.kind is not VolumeKind.HOST_PATH,
            )
        )
    if problems:
        raise InputError(problems)
    return binds


def writable_path(path: str) -> Bind:
    """What the user lets containers change of the host's files, where they see it anyway."""
    return Bind(source=path, inside="", target=path, read_only=False, own=False)


def _sub_path(mount: VolumeMount, env: Mapping[str, str]) -> str:
    path = expand(mount.sub_path_expr, env) if mount.sub_path_expr else mount.sub_path
    if path.startswith("/") or ".." in path.split("/"):
        raise _NowhereError(f"subPathExpr becomes {path!r}, which is outside of the volume")
    return path


def _group(template: PodTemplate) -> int | None:
    """Whose its volumes are; None if there is nobody else."""
    return template.security.fs_group if users() > 1 else None


def _root(
    volume: Volume,
    mount: VolumeMount,
    template: PodTemplate,
    sources: EnvironmentSources,
    directory: Path,
) -> Path:
    """The directory (or the host's file) that a volume is; made if it wasn't there."""
    if not mount.mount_path.strip("/."):
        raise _NowhereError(f"mountPath {mount.mount_path!r} would replace the whole file system")
    if volume.kind is VolumeKind.HOST_PATH:
        return Path(volume.source)
    root = directory
    if volume.kind is VolumeKind.CLAIM:
        key = f"{template.namespace}/{volume.source}"
        if key not in sources.claims and not volume.optional:
            raise _NowhereError(f"there is no PersistentVolumeClaim {volume.source!r}")
        root = sources.claims_directory / key
    is_new = not root.exists()
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    if is_new and volume.kind in _EMPTY_AT_FIRST:
        root.chmod(_EVERYBODYS)
    group = _group(template)
    if group is not None:
        os.chown(root, -1, group)
        root.chmod(stat.S_IMODE(root.stat().st_mode) | 0o2770)
    return root


def _look(root: Path, sub_path: str, volume: Volume) -> None:
    """See that what is to be mounted is there; an app may change that until the launcher looks."""
    make = _EVERYBODYS if volume.kind in _EMPTY_AT_FIRST else None
    try:
        directory = os.open(root, os.O_PATH | os.O_CLOEXEC)
        try:
            os.close(open_beneath(directory, sub_path, make=make))
        finally:
            os.close(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        found = f"volume {volume.name!r} has no {sub_path or volume.source!r}"
        raise _NowhereError(found) from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EXDEV):
            raise
        found = f"subPath {sub_path!r} goes by a symbolic link of volume {volume.name!r}"
        raise _NowhereError(found) from error


def _files(
    volume: Volume,
    template: PodTemplate,
    container: Container,
    pod: Pod,
    sources: EnvironmentSources,
) -> dict[str, bytes]:
    """The content of a volume by relative path; of two files of one path the later one counts."""
    files: dict[str, bytes] = {}
    for part in volume.files:
        for path, field in part.fields.items():
            files[path] = _field(field, template, pod, sources, whole=True).encode()
        for path, ref in part.resources.items():
            files[path] = _resource(ref, template, container).encode()
        if part.kind in _MAPS:
            files |= _keys(part, template.namespace, sources)
    return files


def _keys(part: Projection, namespace: str, sources: EnvironmentSources) -> dict[str, bytes]:
    content = _content(part, f"{namespace}/{part.source}", sources)
    if content is None:
        if part.optional:
            return {}
        raise _NowhereError(f"there is no {_MAPS[part.kind]} {part.source!r}")
    if not part.items:
        return dict(content)
    missing = sorted(part.items.keys() - content.keys())
    if missing and not part.optional:
        raise _NowhereError(f"{_MAPS[part.kind]} {part.source!r} has no key {missing[0]!r}")
    return {path: content[key] for key, path in part.items.items() if key in content}


def _content(part: Projection, key: str, sources: EnvironmentSources) -> Mapping[str, bytes] | None:
    if part.kind is VolumeKind.SECRET:
        secret = sources.secrets.get(key)
        return None if secret is None else secret.data
    config_map = sources.config_maps.get(key)
    if config_map is None:
        return None
    return {k: v.encode() for k, v in config_map.data.items()} | dict(config_map.binary_data)


def _write_files(
    root: Path, files: Mapping[str, bytes], mode: int, *, group: int | None = None
) -> None:
    """Makes ``root`` hold exactly ``files``, each replaced at once; containers see it live."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = target.with_name(f"..{target.name}.new")  # no key starts with two dots
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(content)
            if group is not None:  # who may read it, whatever its mode, as in a cluster
                os.fchown(file.fileno(), -1, group)
            os.fchmod(file.fileno(), mode if group is None else mode | 0o040)
        new.replace(target)
    wanted = {root / path for path in files}
    kept = wanted.union(*(path.parents for path in wanted))
    for entry in sorted(root.rglob("*")):
        if entry in kept or not entry.exists():
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
