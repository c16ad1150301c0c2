"""What `troth node` is told, and how the process that read it becomes the node agent's."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from troth.identity.spiffe import TrustDomain
from troth.mesh.world import DEFAULT_HOME, DEFAULT_ROOT_NAMESPACE
from troth.sockets import KEEPALIVE_SECONDS, ListenAddress

ANNOUNCEMENT_SECONDS = 2.0
"""Within what time every node has heard what the API server says of a pod, as a rule.

A node that hears later sends plaintext to a pod that is STRICT by then, and is refused.
"""

DRAIN_SECONDS = 300.0
"""How long connections outlive an upgrade of the agent that they were made under."""


PLUGIN = "troth-cni"
"""The program's name, and its type in the configuration."""

CNI_PROGRAMS = Path("/opt/cni/bin")
CNI_CONFIGURATIONS = Path("/etc/cni/net.d")
CNI_STATE = Path("/var/lib/troth/mesh.json")


class CniFolders(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are, by the same paths on the node and in the agent.

    Attributes:
        program: The plugin as the agent brings it.
        programs: Where the container runtime looks for plugins.
        configurations: Where it looks for what to use.
        state: The file for the plugin; see `troth.agent.cluster.mesh_file`.
        exempt: Namespaces whose pods are never held up.
    """

    program: Path
    programs: Path = CNI_PROGRAMS
    configurations: Path = CNI_CONFIGURATIONS
    state: Path = CNI_STATE
    exempt: tuple[str, ...] = ("kube-system",)


class OnUncaptured(StrEnum):
    """What to do about a pod of the mesh that runs without being captured."""

    REPORT = "report"
    """Say so."""
    EVICT = "evict"
    """Have it evicted, too."""


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one node agent.

    Attributes:
        node_name: Its Node's name.
        trust_domain: Of all identities.
        kubeconfig: How to reach the API server; otherwise by the pod's service account, or as
            KUBECONFIG says.
        run_dir: For sockets and files of the node's agents; theirs alone, and gone when the machine
            restarts.
        root_namespace: Where policies without a selector are mesh-wide.
        namespace: The controller's.
        health_socket: Of ``/healthz`` and ``/readyz``, if they are wanted. (A port won't do: on the
            node's own network two agents can't both have it.)
        drain_seconds: When it is to end, how long it waits for the next agent, and for its
            connections to end.
        metrics: Where Prometheus may scrape the agent; nowhere when None.
        cri_socket: The container runtime's, to be asked for pods' network namespaces; by default
            they are found by the pods' processes alone.
        pod_connections: How many connections of each kind one pod may have open at a time; None for
            the default.
        memory: How many bytes the agent and its Envoy may use; None if that isn't watched.
        keepalive_seconds: Within what time a vanished peer is noticed.
        announcement_seconds: See `ANNOUNCEMENT_SECONDS`.
        startup_taint: Whether to take the taint `troth.agent.cluster.taint.STARTUP_TAINT` off the
            node as soon as its pods can be captured.
        uncaptured: What to do about pods that can't be captured.
        cni: Where to keep a CNI plugin that has pods captured before they start; None for none.
    """

    node_name: str
    trust_domain: TrustDomain
    kubeconfig: Path | None = None
    run_dir: Path = Path("/run/troth")
    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    namespace: str = DEFAULT_HOME
    health_socket: Path | None = None
    drain_seconds: float = DRAIN_SECONDS
    metrics: ListenAddress | None = None
    cri_socket: Path | None = None
    pod_connections: int | None = None
    memory: int | None = None
    keepalive_seconds: int = KEEPALIVE_SECONDS
    announcement_seconds: float = ANNOUNCEMENT_SECONDS
    startup_taint: bool = False
    uncaptured: OnUncaptured = OnUncaptured.REPORT
    cni: CniFolders | None = None


def become_node(settings: NodeSettings) -> NoReturn:
    """Turn this process into a node agent, which runs until SIGTERM."""
    told = msgspec.json.encode(settings, enc_hook=_as_text).decode()
    # -P: what lies in the working directory is no module.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "troth.agent.cluster", told])  # noqa: S606 - a program and its arguments, no shell


def settings_told(arguments: list[str]) -> NodeSettings:
    """What `become_node` told the process that has these arguments."""
    (told,) = arguments
    return msgspec.json.decode(told, type=NodeSettings, dec_hook=_from_text)


def _as_text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _from_text(kind: type, text: Any) -> Any:
    if kind is Path:
        return Path(text)
    raise NotImplementedError
