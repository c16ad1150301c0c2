"""A container's environment and command line, as the kubelet would make them: pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from troth.errors import InputError, Problem
from troth.local.hosts import kernel_hostname
from troth.manifests.containers import expand
from troth.manifests.workloads import ConfigMap, Secret
from troth.mesh.model import Service

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from troth.manifests.workloads import Container, EnvVar, KeyRef, PodTemplate
    from troth.mesh.model import Pod

_MAP_FIELD = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]", re.DOTALL)
_FROM_HOST = ("PATH", "HOME", "LANG")


class EnvironmentSources(msgspec.Struct, frozen=True, kw_only=True):
    """What a container's environment may refer to.

    Attributes:
        config_maps: By ``NAMESPACE/NAME``.
        secrets: By ``NAMESPACE/NAME``.
        services: Those of every namespace.
        host_addresses: ``status.hostIPs``, the primary one first.
    """

    config_maps: Mapping[str, ConfigMap] = {}
    secrets: Mapping[str, Secret] = {}
    services: tuple[Service, ...] = ()
    host_addresses: tuple[str, ...] = ()


def from_host(environ: Mapping[str, str]) -> dict[str, str]:
    """What an image would bring and a local process has from the host: PATH, HOME and LANG."""
    return {name: environ[name] for name in _FROM_HOST if name in environ}


def environment(
    container: Container,
    template: PodTemplate,
    pod: Pod,
    world: EnvironmentSources,
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
    links = dict(_links(pod.namespace, world.services)) if template.enable_service_links else {}
    for index, source in enumerate(container.env_from):
        kind, name = (
            ("configMapRef", source.config_map)
            if source.config_map
            else ("secretRef", source.secret)
        )
        data = _data(kind, f"{pod.namespace}/{name}", world)
        if data is not None:
            own |= {f"{source.prefix}{key}": text for key, text in data.items() if "=" not in key}
        elif not source.optional:
            path = f"spec.containers[{container.name}].envFrom[{index}].{kind}.name"
            problems.append(_missing(subject, path, f"there is no {_KINDS[kind]} {name!r}"))
    for variable in container.env:
        try:
            value = _value(variable, template, pod, world, {**links, **own})
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


_KINDS = {"configMapRef": "ConfigMap", "secretRef": "Secret"}


class _NowhereError(Exception):
    """A reference leads nowhere."""


def _value(
    variable: EnvVar,
    template: PodTemplate,
    pod: Pod,
    world: EnvironmentSources,
    known: Mapping[str, str],
) -> str | None:
    if variable.config_map_key is not None:
        return _key("configMapRef", variable.config_map_key, pod.namespace, world)
    if variable.secret_key is not None:
        return _key("secretRef", variable.secret_key, pod.namespace, world)
    if variable.field_path is not None:
        return _field(variable.field_path, template, pod, world)
    return expand(variable.value, known)


def _key(kind: str, ref: KeyRef, namespace: str, world: EnvironmentSources) -> str | None:
    data = _data(kind, f"{namespace}/{ref.name}", world)
    if data is not None and ref.key in data:
        return data[ref.key]
    if ref.optional:
        return None
    what = f"{_KINDS[kind]} {ref.name!r}"
    raise _NowhereError(f"there is no {what}" if data is None else f"{what} has no key {ref.key!r}")


def _data(kind: str, key: str, world: EnvironmentSources) -> Mapping[str, str] | None:
    if kind == "configMapRef":
        config_map = world.config_maps.get(key)
        return None if config_map is None else config_map.data
    secret = world.secrets.get(key)
    # Bytes that are no UTF-8 come out of the environment as they went in (PEP 383).
    return None if secret is None else {k: os.fsdecode(v) for k, v in secret.data.items()}


def _field(path: str, template: PodTemplate, pod: Pod, world: EnvironmentSources) -> str:
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
        "status.hostIP": next(iter(world.host_addresses), ""),
        "status.hostIPs": ",".join(world.host_addresses),
    }
    if path not in fields:
        raise _NowhereError(f"there is no field {path!r}")
    return fields[path]


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
