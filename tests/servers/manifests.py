"""Pods that run Debian's servers, the same ones in two namespaces."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.manifests import document, namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.e2e.manifests import Object

BARE = "bare"
"""The namespace outside the mesh."""

INSIDE = "inside"
"""The namespace in the mesh."""

_BOOT = """
while [[ -e /data/down ]]; do sleep 0.1; done
(
echo $BASHPID >/data/pid
{script}
) &
trap "kill $!" TERM
wait $!
"""
# The server isn't the first process of its PID namespace, so that it can be killed in there. It
# stays down while there is /data/down: see `tests.servers.places.Place.crashed`.

AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"
"""What runs a server that refuses to be root."""

_REPOSITORY = Path(__file__).parents[2]


@cache
def image() -> Path:
    """The folder that has the servers' ``/usr``."""
    command = [str(_REPOSITORY / "scripts" / "servers")]
    # What it says on standard error is for people.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def in_both(objects: Callable[[str], Iterable[Object]]) -> dict[str, str]:
    """A mesh's manifests: what ``objects`` makes for a namespace, in one outside and one inside."""
    return {
        f"{name}.yaml": document([namespace(name, mesh=name == INSIDE), *objects(name)])
        for name in (BARE, INSIDE)
    }


def pod(
    name: str,
    script: str = "exec sleep infinity",
    *ports: int,
    subdomain: str = "",
    etc: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    own_usr: bool = True,
) -> Object:
    """A pod ``NAMESPACE/NAME`` that has the servers' ``/usr`` and runs a Bash script.

    It has a directory ``/data`` to write to, and is ready when its first port takes connections.

    Args:
        name: The pod's; its label ``app`` too.
        script: Bash; ends with an ``exec`` of the server. Without any it is a client's pod.
        ports: Its container ports.
        subdomain: The headless Service below which it has a name.
        etc: What its programs need of their packages' ``/etc``.
        env: More environment.
        labels: More of them.
        own_usr: Without, it has the machine's, and the Python that the tests run with.
    """
    space, _, own = name.partition("/")
    volumes: list[Object] = [{"name": "data", "emptyDir": {}}]
    mounts: list[Object] = [{"name": "data", "mountPath": "/data"}]
    variables = {"LC_ALL": "C.UTF-8", **(env or {})}
    if own_usr:
        variables = {"PATH": "/usr/sbin:/usr/bin", **variables}
        volumes += (
            {"name": folder, "hostPath": {"path": str(image() / folder)}}
            for folder in ("usr", "etc")
        )
        mounts.append({"name": "usr", "mountPath": "/usr", "readOnly": True})
        mounts += (
            {"name": "etc", "mountPath": f"/etc/{name}", "subPath": name, "readOnly": True}
            for name in ("passwd", "group", *etc)
        )
    container: Object = {
        "name": own,
        "image": own,
        "workingDir": "/data",
        "command": ["bash", "-euc", _BOOT.format(script=script)],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *({"name": key, "value": value} for key, value in variables.items()),
        ],
        "ports": [{"containerPort": port} for port in ports],
        "volumeMounts": mounts,
    }
    if ports:
        container["readinessProbe"] = {"tcpSocket": {"port": ports[0]}, "periodSeconds": 1}
    spec: Object = {
        "hostname": own,
        "terminationGracePeriodSeconds": 2,
        "containers": [container],
        "volumes": volumes,
    }
    if subdomain:
        spec["subdomain"] = subdomain
    metadata = {"namespace": space, "name": own, "labels": {"app": own, **(labels or {})}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, *ports: int, labels: Mapping[str, str] | None = None) -> Object:
    """A Service of both IP families for the pods labelled ``app: NAME``, or with ``labels``."""
    return _service(name, ports, labels, {"ipFamilyPolicy": "PreferDualStack"})


def headless(name: str, *ports: int, labels: Mapping[str, str] | None = None) -> Object:
    """A headless Service, which gives each of its pods a name, ready or not."""
    return _service(name, ports, labels, {"clusterIP": "None", "publishNotReadyAddresses": True})


def _service(
    name: str, ports: Iterable[int], labels: Mapping[str, str] | None, more: Object
) -> Object:
    space, _, own = name.partition("/")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": space, "name": own},
        "spec": {
            "selector": dict(labels or {"app": own}),
            "ports": [{"name": f"p{port}", "port": port} for port in ports],
            **more,
        },
    }
