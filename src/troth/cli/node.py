"""`troth node`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from troth.agent.cluster.settings import (
    CNI_CONFIGURATIONS,
    CNI_PROGRAMS,
    CNI_STATE,
    PLUGIN,
    CniFolders,
    NodeSettings,
    OnUncaptured,
    become_node,
)
from troth.cli.options import (
    HomeOption,
    KeepaliveOption,
    PodConnectionsOption,
    RootNamespaceOption,
    TrustDomainOption,
)
from troth.errors import InputError, Problem
from troth.identity.spiffe import DEFAULT_TRUST_DOMAIN, TrustDomain
from troth.mesh.world import DEFAULT_HOME, DEFAULT_ROOT_NAMESPACE
from troth.sockets import KEEPALIVE_SECONDS, LISTEN, ListenAddress
from troth.syntax import NAMESPACE


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("node")(node)


def node(
    node_name: Annotated[
        str, typer.Option(envvar="NODE_NAME", help="The name of the Node that this runs on.")
    ],
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="How to reach the API server; by default as the pod's service account, or as "
            "KUBECONFIG says."
        ),
    ] = None,
    run_dir: Annotated[
        Path, typer.Option(help="For sockets and files of the node's agents; theirs alone.")
    ] = Path("/run/troth"),
    namespace: HomeOption = DEFAULT_HOME,
    trust_domain: TrustDomainOption = DEFAULT_TRUST_DOMAIN,
    root_namespace: RootNamespaceOption = DEFAULT_ROOT_NAMESPACE,
    health_socket: Annotated[
        Path | None,
        typer.Option(help="Unix socket of /healthz and /readyz; python -m troth.probe asks it."),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            help="After SIGTERM, how long to wait for the next agent and for connections to end.",
            min=0,
        ),
    ] = 300.0,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar=LISTEN,
            help="Show Prometheus the agent's metrics at /metrics there, to anybody.",
        ),
    ] = None,
    cri_socket: Annotated[
        Path | None,
        typer.Option(
            help="The container runtime's socket, to ask it for pods' network namespaces; by "
            "default they are found by the pods' processes."
        ),
    ] = None,
    max_connections_per_pod: PodConnectionsOption = None,
    keepalive_seconds: KeepaliveOption = KEEPALIVE_SECONDS,
    startup_taint: Annotated[
        bool,
        typer.Option(
            help="Take the taint troth.dev/agent-not-ready off the node as soon as its pods can be "
            "captured."
        ),
    ] = False,
    uncaptured: Annotated[
        OnUncaptured,
        typer.Option(
            help="What to do about a pod of the mesh that runs without being captured: say so, or "
            "have it evicted, too."
        ),
    ] = OnUncaptured.REPORT,
    cni: Annotated[
        bool,
        typer.Option(
            help="Keep a CNI plugin on the node that has pods of the mesh captured before they "
            "start, and holds them up while there is no agent."
        ),
    ] = False,
    cni_programs: Annotated[
        Path, typer.Option(help="The node's folder of CNI plugins, at the same path as there.")
    ] = CNI_PROGRAMS,
    cni_configurations: Annotated[
        Path, typer.Option(help="Its folder of network configurations, at the same path.")
    ] = CNI_CONFIGURATIONS,
    cni_state: Annotated[
        Path,
        typer.Option(
            help="Where on the node's disk the plugin finds what the mesh was, at the same path."
        ),
    ] = CNI_STATE,
    cni_exempt: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE,...",
            help="Whose pods the plugin never holds up, besides the agent's own namespace.",
        ),
    ] = "kube-system",
    cni_program: Annotated[
        Path | None, typer.Option(help="The plugin itself; by default beside Python's programs.")
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(
            envvar="MEMORY_LIMIT",
            help="How many bytes the agent and its Envoy may use together; when they are nearly "
            "used up, Envoy takes no new connections. By default that isn't watched.",
            min=64 * 1024 * 1024,
        ),
    ] = None,
) -> None:
    """Run a cluster's node agent: capture this node's pods and enforce the mesh's policies.

    For a DaemonSet, with the node's PIDs in view. Two may run on a node at a time: the second takes
    over from the first. On SIGTERM an agent of a DaemonSet goes on until the next one has taken
    over and its own connections have ended, any other one ends at once. Pods stay captured, so that
    nothing passes unencrypted until the next agent is there.
    """
    become_node(
        NodeSettings(
            node_name=node_name,
            kubeconfig=kubeconfig.absolute() if kubeconfig is not None else None,
            run_dir=run_dir.absolute(),
            namespace=namespace,
            trust_domain=TrustDomain.parse(trust_domain),
            root_namespace=root_namespace,
            health_socket=health_socket.absolute() if health_socket is not None else None,
            drain_seconds=drain_seconds,
            metrics=ListenAddress.parse(metrics, option="--metrics") if metrics else None,
            cri_socket=cri_socket.absolute() if cri_socket is not None else None,
            pod_connections=max_connections_per_pod,
            keepalive_seconds=keepalive_seconds,
            memory=memory,
            startup_taint=startup_taint,
            uncaptured=uncaptured,
            cni=CniFolders(
                program=(cni_program or Path(sys.prefix, "bin", PLUGIN)).absolute(),
                programs=cni_programs.absolute(),
                configurations=cni_configurations.absolute(),
                state=cni_state.absolute(),
                exempt=namespaces(cni_exempt),
            )
            if cni
            else None,
        )
    )


def namespaces(text: str) -> tuple[str, ...]:
    """The names of namespaces in a list with commas."""
    names = tuple(filter(None, text.split(",")))
    for name in names:
        if flaw := NAMESPACE.flaw(name):
            found, wanted = flaw
            raise InputError([Problem(subject="--cni-exempt", path="", found=found, wanted=wanted)])
    return names
