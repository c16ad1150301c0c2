"""The options that commands share; those for clusters are named as kubectl names them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from troth.mesh.world import DEFAULT_HOME
from troth.sockets import LONGEST_KEEPALIVE_SECONDS, SHORTEST_KEEPALIVE_SECONDS

# Of what runs a mesh or a part of it: all parts must be told the same.
HomeOption = Annotated[
    str,
    typer.Option(
        "--namespace",
        metavar="NAMESPACE",
        help="The namespace of the controller and the node agents.",
    ),
]
TrustDomainOption = Annotated[
    str, typer.Option(metavar="DOMAIN", help="The trust domain of every identity.")
]
RootNamespaceOption = Annotated[
    str,
    typer.Option(
        "--root-namespace",
        metavar="NAMESPACE",
        help="Where policies without a selector are mesh-wide.",
    ),
]
KeepaliveOption = Annotated[
    int,
    typer.Option(
        "--keepalive-seconds",
        metavar="SECONDS",
        help="Within what time it is noticed that the other end of a connection has vanished.",
        min=SHORTEST_KEEPALIVE_SECONDS,
        max=LONGEST_KEEPALIVE_SECONDS,
    ),
]
PodConnectionsOption = Annotated[
    int | None,
    typer.Option(
        "--max-connections-per-pod",
        metavar="NUMBER",
        help="How many connections one pod may have open at a time of each kind: that leave it, "
        "that come by the tunnel, and that come in plaintext. By default 4096, and never more than "
        "a quarter of what the limit on open files allows to all pods.",
        min=1,
    ),
]

# Of what asks a mesh.
ContextOption = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Ask the cluster of this kubeconfig context."),
]
KubeconfigOption = Annotated[
    Path | None,
    typer.Option("--kubeconfig", metavar="FILE", help="Ask the cluster of this kubeconfig file."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAMESPACE",
        help="The namespace of names without one, in a cluster.",
    ),
]
AskedNamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAMESPACE",
        help="Ask about this namespace: of the mesh on this machine, or of a cluster.",
    ),
]
AllNodesOption = Annotated[
    bool,
    typer.Option(
        "--all-nodes",
        help="In a cluster: ask the agents of all nodes, not only of those that the namespace's "
        "captured pods are on.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", help="In a cluster: how long to wait for agents.", min=0.1, max=300
    ),
]
TrothNamespaceOption = Annotated[
    str, typer.Option(metavar="NAMESPACE", help="In a cluster: where the node agents run.")
]
TIMEOUT_SECONDS = 15.0
TROTH_NAMESPACE = DEFAULT_HOME

# Of what is about a cluster and nothing else.
ClusterContextOption = Annotated[
    str | None,
    typer.Option(
        "--context", metavar="NAME", help="The kubeconfig's context; by default the current one."
    ),
]
ClusterKubeconfigOption = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", metavar="FILE", help="The kubeconfig file; by default as kubectl has it."
    ),
]


class CheckOutput(StrEnum):
    """How a report is written that a pull request check may want."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


CheckOutputOption = Annotated[
    CheckOutput,
    typer.Option(
        "--output",
        "-o",
        help="Report as text for people, as stable JSON, as SARIF for code scanning, or as "
        "annotations of a GitHub workflow.",
    ),
]
