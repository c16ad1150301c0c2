"""A container of a pod: command, environment, ports, readiness, mounts, as whom it runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from troth.manifests import api
from troth.manifests.workloads import (
    Container,
    EnvFrom,
    EnvVar,
    GrpcCheck,
    Hook,
    HttpGet,
    KeyRef,
    Probe,
    ResourceRef,
    Security,
    VolumeMount,
)
from troth.mesh.model import ContainerPort, Protocol
from troth.syntax import NAMESPACE, Rule, described

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.fields import Fields

LAST_PORT = 65535
PORT_NAME = Rule(
    pattern=re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?"),
    longest=15,
    wanted="use up to 15 of a-z, 0-9 and '-', with a letter among them (RFC 6335)",
)
_ENV_NAME = Rule(
    pattern=re.compile(r"[ -<>-~]+"),
    longest=1024,
    wanted="use printable ASCII characters other than '='",
)
_SOURCES = ("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef")
_UNSUPPORTED_SOURCE = "fileKeyRef"

QUANTITY = Rule(
    pattern=re.compile(
        r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?"
    ),
    longest=64,
    wanted="write a number such as 500m, 2, 128Mi or 1e6",
)
_GRPC_SERVICE = Rule(pattern=re.compile(r"[!-~]*"), longest=1024, wanted="write the service's name")

_LAST_ID = 2**31 - 1

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def read_container(fields: Fields, *, init: bool = False) -> Container:
    """One entry of ``containers`` or ``initContainers``."""
    fields.only(api.names("Container"))
    ports = read_ports(fields)
    names = [port.name for port in ports if port.name]
    for name in sorted({name for name in names if names.count(name) > 1}):
        fields.error("ports", f"has the port {described(name)} twice", "give each its own name")
    is_sidecar = init and fields.string("restartPolicy") == "Always"
    probes = {
        name: _probe(fields.fields(name), ports)
        for name in ("readinessProbe", "livenessProbe", "startupProbe")
        if name in fields
    }
    for name in ("livenessProbe", "startupProbe"):
        if (probe := probes.get(name)) and probe.success_threshold != 1:
            probe_fields = fields.fields(name)
            found = f"is {probe.success_threshold}"
            probe_fields.error("successThreshold", found, "write 1, the only one it may have")
    resources = fields.fields("resources")
    lifecycle = fields.fields("lifecycle")
    lifecycle.only(api.names("Lifecycle"))
    env = [each for field in fields.each("env") if (each := _env_var(field))]
    mounts = fields.each("volumeMounts")
    places = [mount.value("mountPath") for mount in mounts]
    for place in dict.fromkeys(each for each in places if isinstance(each, str)):
        if places.count(place) > 1:
            fields.error("volumeMounts", f"mounts {described(place)} twice", "keep one of them")
    return Container(
        name=fields.needed("name", "give the container a name", rule=NAMESPACE),
        image=fields.string("image"),
        command=fields.strings("command"),
        args=fields.strings("args"),
        env=tuple(env),
        env_from=tuple(_env_from(source) for source in fields.each("envFrom")),
        working_dir=fields.string("workingDir"),
        ports=ports,
        host_ports=read_host_ports(fields),
        readiness=probes.get("readinessProbe"),
        liveness=probes.get("livenessProbe"),
        startup=probes.get("startupProbe"),
        post_start=_hook(lifecycle, "postStart", ports),
        pre_stop=_hook(lifecycle, "preStop", ports),
        volume_mounts=tuple(_mount(mount) for mount in mounts),
        security=read_security(fields),
        limits=_quantities(resources, "limits"),
        requests=_quantities(resources, "requests"),
        is_sidecar=is_sidecar,
    )


def read_ports(fields: Fields) -> tuple[ContainerPort, ...]:
    """What a container declares to listen on."""
    return tuple(_port(port) for port in fields.each("ports"))


def read_host_ports(fields: Fields) -> tuple[int, ...]:
    """Those of its TCP ports that are ports of the node, too (``hostPort``)."""
    ports = fields.value("ports")
    return tuple(
        number
        for each in (ports if isinstance(ports, list) else ())
        if isinstance(each, dict) and each.get("hostPort") and each.get("protocol", "TCP") == "TCP"
        if isinstance(number := each.get("containerPort"), int)
    )


def _port(fields: Fields) -> ContainerPort:
    if "containerPort" not in fields:
        fields.missing("containerPort", f"write a port, 1 to {LAST_PORT}")
    return ContainerPort(
        number=fields.integer("containerPort", 1, low=1, high=LAST_PORT),
        name=fields.string("name", rule=PORT_NAME),
        protocol=fields.choice("protocol", Protocol, Protocol.TCP),
    )


def _env_var(fields: Fields) -> EnvVar | None:  # noqa: PLR0911 - one for each source
    name = fields.needed("name", "name the variable", rule=_ENV_NAME)
    if "valueFrom" not in fields:
        return EnvVar(name=name, value=fields.string("value"))
    if fields.string("value"):
        fields.error("valueFrom", "stands beside a value", "keep one of the two")
    source = fields.fields("valueFrom")
    given = [each for each in source if each in source]
    if len(given) != 1 or given[0] not in (*_SOURCES, _UNSUPPORTED_SOURCE):
        found = f"has {' and '.join(map(described, given))}" if given else "is empty"
        fields.error("valueFrom", found, f"write one of {', '.join(_SOURCES)}")
        return None
    chosen = source.fields(given[0])
    match given[0]:
        case "resourceFieldRef":
            return EnvVar(name=name, resource=read_resource(chosen))
        case "fieldRef":
            path = chosen.needed("fieldPath", "name a field, such as status.podIP")
            return EnvVar(name=name, field_path=path)
        case "secretKeyRef":
            return EnvVar(name=name, secret_key=_key_ref(chosen))
        case "configMapKeyRef":
            return EnvVar(name=name, config_map_key=_key_ref(chosen))
        case _:
            return None


def _key_ref(fields: Fields) -> KeyRef:
    return KeyRef(
        name=fields.needed("name", "name the object that holds the key"),
        key=fields.needed("key", "name a key of it"),
        optional=fields.boolean("optional"),
    )


def read_resource(fields: Fields) -> ResourceRef:
    """A ``resourceFieldRef``."""
    return ResourceRef(
        resource=fields.needed("resource", "name one, such as limits.memory"),
        container=fields.string("containerName"),
        divisor=_quantity(fields, "divisor") or "1",
    )


def _quantities(resources: Fields, name: str) -> dict[str, str]:
    """What a container asks for or may have at most, by resource."""
    fields = resources.fields(name)
    return {each: _quantity(fields, each) for each in fields}


def _quantity(fields: Fields, name: str) -> str:
    value = fields.value(name)
    text = str(value) if isinstance(value, int | float) else value
    if text is not None and (flaw := QUANTITY.flaw(text)):
        fields.error(name, *flaw)
        return ""
    return str(text or "")


def _env_from(fields: Fields) -> EnvFrom:
    config_map, secret = fields.fields("configMapRef"), fields.fields("secretRef")
    if ("configMapRef" in fields) == ("secretRef" in fields):
        fields.report.error(
            fields.path, "names no single source", "write configMapRef or secretRef"
        )
        return EnvFrom()
    prefix = fields.string("prefix")
    if "secretRef" in fields:
        name = secret.needed("name", "name the Secret")
        return EnvFrom(secret=name, prefix=prefix, optional=secret.boolean("optional"))
    name = config_map.needed("name", "name the ConfigMap")
    return EnvFrom(config_map=name, prefix=prefix, optional=config_map.boolean("optional"))


def _mount(fields: Fields) -> VolumeMount:
    mount_path = fields.needed("mountPath", "write the directory it appears at")
    if ":" in mount_path:
        fields.error("mountPath", "contains ':'", "write a path without it")
    sub_path = fields.string("subPath")
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        fields.error("subPath", f"is {described(sub_path)}", "stay inside the volume")
        sub_path = ""
    expression = fields.string("subPathExpr")
    if sub_path and expression:
        fields.error("subPathExpr", "stands beside subPath", "keep one of them")
    return VolumeMount(
        name=fields.needed("name", "name one of the pod's volumes"),
        mount_path=mount_path,
        sub_path=sub_path,
        sub_path_expr=expression,
        read_only=fields.boolean("readOnly"),
    )


def _probe(fields: Fields, ports: tuple[ContainerPort, ...]) -> Probe | None:
    handler = _handler(fields, ("httpGet", "tcpSocket", "exec", "grpc"))
    if not handler:
        return None
    action = fields.fields(handler)
    return Probe(
        http_get=_http_get(action, ports) if handler == "httpGet" else None,
        tcp_port=_probe_port(action, ports) if handler == "tcpSocket" else None,
        command=_command(action) if handler == "exec" else None,
        grpc=_grpc(action) if handler == "grpc" else None,
        initial_delay=fields.integer("initialDelaySeconds", 0),
        # A zero is the API's way to ask for the default.
        period=fields.integer("periodSeconds", 0) or 10,
        timeout=fields.integer("timeoutSeconds", 0) or 1,
        success_threshold=fields.integer("successThreshold", 0) or 1,
        failure_threshold=fields.integer("failureThreshold", 0) or 3,
        grace=(
            fields.integer("terminationGracePeriodSeconds", 1, low=1)
            if "terminationGracePeriodSeconds" in fields
            else None
        ),
    )


def _grpc(fields: Fields) -> GrpcCheck:
    if "port" not in fields:
        fields.missing("port", f"write a port, 1 to {LAST_PORT}")
    return GrpcCheck(
        port=fields.integer("port", 1, low=1, high=LAST_PORT),
        service=fields.string("service", rule=_GRPC_SERVICE),
    )


def _hook(lifecycle: Fields, name: str, ports: tuple[ContainerPort, ...]) -> Hook | None:
    if name not in lifecycle:
        return None
    fields = lifecycle.fields(name)
    handlers = ("exec", "httpGet", "sleep")
    handler = _handler(fields, handlers, "tcpSocket")
    if not handler:
        return None
    action = fields.fields(handler)
    match handler:
        case "exec":
            return Hook(command=_command(action))
        case "httpGet":
            return Hook(http_get=_http_get(action, ports))
        case "sleep":
            if "seconds" not in action:
                action.missing("seconds", "write for how many seconds to wait")
            return Hook(sleep=action.integer("seconds", 0))
        case _:
            found = "is a hook that Kubernetes doesn't run"
            fields.warn("tcpSocket", found, f"write one of {', '.join(handlers)}")
            return None


def _handler(fields: Fields, handlers: tuple[str, ...], *others: str) -> str:
    """The one handler given; empty if there are several or none, which is noted."""
    given = [handler for handler in (*handlers, *others) if handler in fields]
    if len(given) == 1:
        return given[0]
    found = f"has {' and '.join(given)}" if given else "does nothing"
    fields.report.error(fields.path, found, f"write one of {', '.join(handlers)}")
    return ""


def _command(action: Fields) -> tuple[str, ...]:
    command = action.strings("command")
    if not command:
        action.missing("command", "write the command to run")
    return command


def _http_get(fields: Fields, ports: tuple[ContainerPort, ...]) -> HttpGet:
    path = fields.string("path", "/")
    scheme = fields.string("scheme", "HTTP")
    if scheme not in ("HTTP", "HTTPS"):
        fields.error("scheme", f"is {described(scheme)}", "write HTTP or HTTPS")
    headers = tuple(
        (header.needed("name", "name the header"), header.string("value"))
        for header in fields.each("httpHeaders")
    )
    if any(_breaks_lines(text) for text in (path, *(part for pair in headers for part in pair))):
        fields.report.error(
            fields.path, "contains a line break", "write path and headers in one line"
        )
    return HttpGet(
        port=_probe_port(fields, ports),
        path=path if path.startswith("/") else f"/{path}",
        scheme=scheme,
        headers=headers,
    )


def _breaks_lines(text: str) -> bool:
    return "\r" in text or "\n" in text


def _probe_port(fields: Fields, ports: tuple[ContainerPort, ...]) -> int:
    name = fields.value("port")
    if not isinstance(name, str):
        if name is None:
            fields.missing("port", "write a number, or the name of one of the container's ports")
        return fields.integer("port", 1, low=1, high=LAST_PORT)
    for port in ports:
        if port.name == name:
            return port.number
    if flaw := PORT_NAME.flaw(name):
        fields.error("port", *flaw)
    else:
        found = (
            f"is {described(name)}, which no port of the container is called, so it always fails"
        )
        fields.warn("port", found, "name one that it declares, or write a number")
    return 0


def read_security(holder: Fields) -> Security:
    """The ``securityContext`` of a pod's spec or of a container."""
    fields = holder.fields("securityContext")
    groups = _group_list(fields)
    user = _id(fields, "runAsUser")
    if user == 0 and fields.boolean("runAsNonRoot"):
        found = "is 0 beside runAsNonRoot, so no kubelet starts it"
        fields.warn("runAsUser", found, "name another user, or drop one")
    capabilities = fields.fields("capabilities")
    return Security(
        user=user,
        group=_id(fields, "runAsGroup"),
        groups=groups,
        fs_group=_id(fields, "fsGroup"),
        read_only_root=fields.boolean("readOnlyRootFilesystem"),
        not_root=fields.boolean("runAsNonRoot") if "runAsNonRoot" in fields else None,
        added=_capabilities(capabilities, "add"),
        dropped=_capabilities(capabilities, "drop"),
    )


def _capabilities(fields: Fields, name: str) -> tuple[str, ...]:
    return tuple(each.upper().removeprefix("CAP_") for each in fields.strings(name))


def _id(fields: Fields, name: str) -> int | None:
    return fields.integer(name, 0, high=_LAST_ID) if name in fields else None


def _group_list(fields: Fields) -> tuple[int, ...]:
    groups = fields.items("supplementalGroups")
    if wrong := [each for each in groups if not isinstance(each, int) or not 0 <= each <= _LAST_ID]:
        fields.error("supplementalGroups", f"has {wrong[0]!r}", f"write numbers, 0 to {_LAST_ID}")
        return ()
    return tuple(each for each in groups if isinstance(each, int))


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by the variable; ``$$`` is a plain ``$``.

    An unknown name stays as it stands, and nothing is expanded twice
    (``k8s.io/kubernetes/third_party/forked/golang/expansion``).
    """

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(replacement, text)
