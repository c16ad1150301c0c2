"""What a kubelet puts into containers: service account tokens, ConfigMaps, Secrets, variables."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkube.models.authentication_v1 import BoundObjectReference, TokenRequest, TokenRequestSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Secret, ServiceAccount
from lightkube.utils.quantity import parse_quantity
from tests.rig import dns
from tests.rig.programs import process_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightkube import Client
    from tests.rig.pods import Sandbox

_TOKEN_SECONDS = 3607
_NODE_MEMORY = "8Gi"  # what a container may use that has no limit of its own


def prepare(sandbox: Sandbox, client: Client) -> dict[str, Path]:
    """Lay out the pod's volumes on its node, by name.

    Raises:
        ValueError: A volume is of a kind that the tests don't need.
    """
    found: dict[str, Path] = {}
    for volume in sandbox.spec.get("volumes", ()):
        name = volume["name"]
        directory = sandbox.directory / "volumes" / name
        directory.mkdir(parents=True, exist_ok=True)
        found[name] = directory
        match volume:
            case {"hostPath": {"path": path}}:
                found[name] = _host_path(sandbox, path)
            case {"emptyDir": _}:
                directory.chmod(0o777)
            case {"projected": {"sources": sources}}:
                for source in sources:
                    _write(directory, source, sandbox, client)
            case {"configMap": _} | {"secret": _}:
                _write(directory, volume, sandbox, client)
            case _:
                raise ValueError(f"the test kubelet has no volume such as {volume}")
    return found


def mounts(spec: Mapping[str, Any], volumes: Mapping[str, Path]) -> dict[str, Path]:
    """What to mount for a container, by the path it sees."""
    found = {}
    for mount in spec.get("volumeMounts", ()):
        source = volumes[mount["name"]]
        if "subPath" in mount:
            source /= mount["subPath"]
        found[mount["mountPath"]] = source
    return found


def resolv_conf(sandbox: Sandbox) -> dict[str, Path]:
    """The pod's ``/etc/resolv.conf`` to mount, which asks cluster DNS."""
    if sandbox.host_network and sandbox.spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
        return {}
    namespace = sandbox.pod["metadata"]["namespace"]
    search = (f"{namespace}.svc.{dns.DOMAIN}", f"svc.{dns.DOMAIN}", dns.DOMAIN)
    file = sandbox.directory / "resolv.conf"
    file.write_text(f"nameserver {dns.ADDRESS}\nsearch {' '.join(search)}\noptions ndots:5\n")
    # Where it is a link into /run, what it points to is in the container's own /run.
    return {os.path.realpath("/etc/resolv.conf"): file}


def environment(sandbox: Sandbox, spec: Mapping[str, Any]) -> dict[str, str]:
    """A container's variables."""
    host, port = sandbox.place.api
    found = process_environment() | {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
        "HOSTNAME": sandbox.name,
    }
    for variable in spec.get("env", ()):
        match variable:
            case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                found[variable["name"]] = _field(sandbox, path)
            case {"valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}:
                limits = spec.get("resources", {}).get("limits", {})
                memory = int(parse_quantity(limits.get("memory", _NODE_MEMORY)) or 0)
                found[variable["name"]] = str(memory)
            case _:
                found[variable["name"]] = variable.get("value", "")
    return found


def token_of(client: Client, pod: Mapping[str, Any], *, audience: str | None = None) -> str:
    """A token of the pod's service account, bound to the pod, and so to its node."""
    metadata = pod["metadata"]
    reference = BoundObjectReference(
        apiVersion="v1", kind="Pod", name=metadata["name"], uid=metadata["uid"]
    )
    request = ServiceAccount.Token(
        metadata=ObjectMeta(),
        spec=TokenRequestSpec(
            audiences=[audience] if audience else [],
            boundObjectRef=reference,
            expirationSeconds=_TOKEN_SECONDS,
        ),
    )
    name = pod["spec"].get("serviceAccountName", "default")
    granted: TokenRequest = client.create(request, name, namespace=metadata["namespace"])
    assert granted.status is not None
    assert granted.status.token is not None
    return granted.status.token


def _write(directory: Path, source: Mapping[str, Any], sandbox: Sandbox, client: Client) -> None:
    namespace = sandbox.pod["metadata"]["namespace"]
    match source:
        case {"serviceAccountToken": wanted}:
            token = token_of(client, sandbox.pod, audience=wanted.get("audience"))
            _put(directory / wanted["path"], token.encode())
        case {"configMap": wanted}:
            config = client.get(ConfigMap, wanted["name"], namespace=namespace)
            files = {key: value.encode() for key, value in (config.data or {}).items()}
            _put_items(directory, files, wanted)
        case {"secret": wanted}:
            name = wanted.get("secretName") or wanted["name"]
            secret = client.get(Secret, name, namespace=namespace)
            files = {key: base64.b64decode(value) for key, value in (secret.data or {}).items()}
            _put_items(directory, files, wanted)
        case {"downwardAPI": {"items": items}}:
            for item in items:
                value = _field(sandbox, item["fieldRef"]["fieldPath"])
                _put(directory / item["path"], value.encode())
        case _:
            raise ValueError(f"the test kubelet has no volume source such as {source}")


def _put_items(directory: Path, files: Mapping[str, bytes], wanted: Mapping[str, Any]) -> None:
    items = wanted.get("items") or [{"key": key, "path": key} for key in files]
    for item in items:
        _put(directory / item["path"], files[item["key"]])


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _host_path(sandbox: Sandbox, path: str) -> Path:
    machine = sandbox.place.machine
    machine.path(path).mkdir(parents=True, exist_ok=True)
    # A container's /run hides the node's, which is this directory.
    for run in ("/var/run", "/run"):
        if path == run or path.startswith(f"{run}/"):
            return machine.directory / f"run{path.removeprefix(run)}"
    return Path(path)


def _field(sandbox: Sandbox, path: str) -> str:
    metadata = sandbox.pod["metadata"]
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": sandbox.place.node,
        "spec.serviceAccountName": sandbox.spec.get("serviceAccountName", "default"),
        "status.hostIP": sandbox.place.address,
        "status.podIP": sandbox.address,
    }
    return str(fields[path])
