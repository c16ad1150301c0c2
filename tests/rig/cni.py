"""What a container runtime does with CNI: it goes by the first configuration of the node's folder.

The network itself is the sandbox's; its plugin's result is made here, and of the others only
troth's is run. The folders are below the machine's ``/run``, which is its own.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.machine import Machine
    from tests.rig.pods import Sandbox

CONFIGURATIONS = "/run/cni/net.d"
PROGRAMS = "/run/cni/bin"
STATE = "/run/cni/state/mesh.json"

_NETWORK: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "test",
    "plugins": [{"type": "test-network"}],
}


class CniError(Exception):
    """What a plugin has said."""


def folder(machine: Machine, path: str = CONFIGURATIONS) -> Path:
    """Where a folder of a machine is for the test."""
    return machine.directory / path.lstrip("/")


def prepare(machine: Machine) -> None:
    """Have a network in the machine's folder."""
    folder(machine).mkdir(parents=True, exist_ok=True)
    folder(machine, PROGRAMS).mkdir(exist_ok=True)
    (folder(machine) / "10-test.conflist").write_text(json.dumps(_NETWORK))


def call(sandbox: Sandbox, command: str) -> None:
    """Call the plugins of the node's network for a sandbox, if it has any.

    Raises:
        CniError: One of them refuses.
    """
    machine = sandbox.place.machine
    there = folder(machine)
    names = sorted(path for path in there.glob("*") if path.suffix == ".conflist")
    if sandbox.host_network or not names:
        return
    configuration = json.loads(names[0].read_text())
    shared = {key: configuration[key] for key in ("cniVersion", "name")}
    result: Any = {
        "cniVersion": shared["cniVersion"],
        "dns": {},
        "interfaces": [{"name": "eth0", "sandbox": "/proc/self/fd/9"}],
        "ips": [{"address": f"{sandbox.address}/32", "interface": 0}],
    }
    for plugin in configuration["plugins"]:
        if plugin["type"] == "troth-cni":
            result = _run(sandbox, command, {**shared, **plugin, "prevResult": result}) or result


def _run(sandbox: Sandbox, command: str, configuration: dict[str, Any]) -> Any:
    metadata = sandbox.pod["metadata"]
    arguments = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": metadata["namespace"],
        "K8S_POD_NAME": metadata["name"],
        "K8S_POD_INFRA_CONTAINER_ID": sandbox.id,
        "K8S_POD_UID": metadata["uid"],
    }
    namespace = os.open(sandbox.netns, os.O_RDONLY)
    try:
        done = sandbox.place.machine.run(
            f"{PROGRAMS}/troth-cni",
            check=False,
            input=json.dumps(configuration),
            pass_fds=[namespace],
            env={
                **os.environ,
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": sandbox.id,
                "CNI_NETNS": f"/proc/self/fd/{namespace}",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": PROGRAMS,
                "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
            },
        )
    finally:
        os.close(namespace)
    if done.returncode:
        raise CniError(json.loads(done.stdout)["msg"] if done.stdout else done.stderr)
    return json.loads(done.stdout) if done.stdout else None
