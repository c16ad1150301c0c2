"""What a container runtime does with CNI: it goes by the first configuration of the node's folder.

The network itself is the sandbox's; its plugin's result is made here, and of the others only
troth's is run. The folders are the usual ones, of which each machine has its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.harness import TROTH
from tests.rig.programs import find

from troth.agent.cluster.cni_files import CONFIGURATION
from troth.agent.cluster.settings import CNI_CONFIGURATIONS, CNI_PROGRAMS, CNI_STATE, PLUGIN

if TYPE_CHECKING:
    from tests.rig.machine import Machine
    from tests.rig.pods import Sandbox

TROTHS = CNI_CONFIGURATIONS / CONFIGURATION
"""Troth's own configuration, while the plugin is installed."""

_NETWORK: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "test",
    "plugins": [{"type": "test-network"}],
}


class CniError(Exception):
    """What a plugin has said."""


def prepare(machine: Machine) -> None:
    """Have a network on the machine."""
    for folder in (CNI_CONFIGURATIONS, CNI_PROGRAMS):
        machine.path(str(folder)).mkdir(parents=True, exist_ok=True)
    network = machine.path(str(CNI_CONFIGURATIONS / "10-test.conflist"))
    network.write_text(json.dumps(_NETWORK))


def is_chained(machine: Machine) -> bool:
    """Whether troth's plugin is called for the pods of a machine."""
    return machine.path(str(TROTHS)).exists()


def clear(machine: Machine) -> None:
    """Take away what agents that have ended have left of the plugin."""
    for path in (TROTHS, CNI_PROGRAMS / PLUGIN, CNI_STATE):
        machine.path(str(path)).unlink(missing_ok=True)


def bring() -> None:
    """Have the plugin where agents look for it, as troth's image has it."""
    there = Path(TROTH).with_name(PLUGIN)
    made = there.with_name(f"{PLUGIN}.{os.getpid()}")
    made.symlink_to(find("cni") / PLUGIN)
    made.rename(there)


def call(sandbox: Sandbox, command: str) -> None:
    """Call the plugins of the node's network for a sandbox, if it has any.

    Raises:
        CniError: One of them refuses.
    """
    machine = sandbox.place.machine
    there = machine.path(str(CNI_CONFIGURATIONS))
    names = sorted(there.glob("*.conflist"))
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
        if plugin["type"] == PLUGIN:
            try:
                _run(sandbox, command, {**shared, **plugin, "prevResult": result})
            except CniError:
                if command != "DEL":  # which a runtime tries again; the plugin may be gone by now
                    raise


def _run(sandbox: Sandbox, command: str, configuration: dict[str, Any]) -> None:
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
            str(CNI_PROGRAMS / PLUGIN),
            check=False,
            input=json.dumps(configuration),
            pass_fds=[namespace],
            env={
                **os.environ,
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": sandbox.id,
                "CNI_NETNS": f"/proc/self/fd/{namespace}",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(CNI_PROGRAMS),
                "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
            },
        )
    finally:
        os.close(namespace)
    if done.returncode:
        raise CniError(json.loads(done.stdout)["msg"] if done.stdout else done.stderr)
