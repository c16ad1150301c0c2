"""Which mesh or cluster a command line means.

Any option for clusters means a cluster, and so does being called as `kubectl troth`; ``-f`` means
files, for which ``-n`` only completes names; and without either it is the mesh on this machine.

What asks a cluster is imported only for that: it takes several times as long as to ask a local
mesh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from troth.ask.by_socket import SocketMesh
from troth.cli import PLUGIN
from troth.cli.console import err
from troth.cli.options import TIMEOUT_SECONDS, TROTH_NAMESPACE
from troth.control.state_dir import StateDirectory
from troth.errors import InputError, Problem
from troth.syntax import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from troth.ask.cluster import Cluster
    from troth.ask.mesh import Mesh
    from troth.explain.why import Unanswered


def asked_mesh(
    ctx: typer.Context,
    *,
    context: str | None,
    kubeconfig: Path | None,
    namespace: str | None,
    home: str = TROTH_NAMESPACE,
    everywhere: bool = False,
    seconds: float = TIMEOUT_SECONDS,
) -> Mesh:
    """The mesh that is meant: a cluster's, or the one on this machine.

    Args:
        ctx: The command's.
        context: As given.
        kubeconfig: As given.
        namespace: As given; one of the mesh on this machine, if one runs and nothing else means a
            cluster.
        home: Where a cluster's agents run.
        everywhere: Ask the agents of all nodes of a cluster.
        seconds: How long to wait for them.

    Raises:
        TrothError: There is no such cluster.
    """
    state = StateDirectory()
    named = context is not None or kubeconfig is not None or _is_plugin(ctx)
    _check_namespace(namespace)
    if not named and (namespace is None or state.control.exists()):
        return SocketMesh(state, namespace=namespace, tell=tell)
    cluster = _cluster(context, kubeconfig, namespace)
    return mesh_of(cluster, only=namespace or "", home=home, everywhere=everywhere, seconds=seconds)


def mesh_of(
    cluster: Cluster | None,
    *,
    only: str = "",
    home: str = TROTH_NAMESPACE,
    everywhere: bool = False,
    seconds: float = TIMEOUT_SECONDS,
) -> Mesh:
    """The mesh of a cluster, as of `ClusterMesh`; of None the one on this machine."""
    if cluster is None:
        return SocketMesh(StateDirectory(), namespace=None, tell=tell)
    from troth.ask.by_reviews import ClusterMesh  # noqa: PLC0415 - see above

    return ClusterMesh(
        cluster, only=only, home=home, everywhere=everywhere, seconds=seconds, tell=tell
    )


def asked_cluster(
    ctx: typer.Context,
    *,
    context: str | None,
    kubeconfig: Path | None,
    namespace: str | None,
    files: Sequence[Path] | None,
) -> Cluster | None:
    """The cluster whose objects are meant; None when files are, or nothing is.

    Raises:
        TrothError: There is no such cluster.
    """
    _check_namespace(namespace)
    if files:
        if context is not None or kubeconfig is not None:
            raise typer.BadParameter("ask either files, by -f, or a cluster, by --context")
        return None
    if (context, kubeconfig, namespace) == (None, None, None) and not _is_plugin(ctx):
        return None
    return _cluster(context, kubeconfig, namespace)


def full_name(name: str, namespace: str | None) -> str:
    """A workload's name with its namespace: its own, if it has one."""
    head, slash, rest = name.partition("/")
    # A label's key may have a slash, too: what is before it is then mostly a domain.
    if namespace is None or not (slash and rest and NAMESPACE.flaw(head) is None):
        return f"{namespace}/{name}" if namespace else name
    return name


def full_object_name(name: str, namespace: str | None) -> str:
    """``KIND/NAMESPACE/NAME`` of an object that may be named without its namespace."""
    kind, _, rest = name.partition("/")
    if namespace is None or not rest or "/" in rest or kind.lower() == "namespace":
        return name
    return f"{kind}/{namespace}/{rest}"


def tell(what: str, why: str) -> None:
    """Say on standard error what an answer is without, and why."""
    err.print(f"[yellow]{escape(what)}:[/yellow] {escape(why)}", soft_wrap=True)


def tell_unanswered(unanswered: Iterable[Unanswered]) -> None:
    """Say on standard error which nodes' part is missing."""
    for each in unanswered:
        tell(f"node {each.node} did not answer", each.why)


def _is_plugin(ctx: typer.Context) -> bool:
    """Whether the program was called as kubectl's plugin."""
    return ctx.find_root().info_name == PLUGIN


def _check_namespace(namespace: str | None) -> None:
    if namespace is not None and (flaw := NAMESPACE.flaw(namespace)):
        raise InputError([Problem(subject="-n", path="", found=flaw[0], wanted=flaw[1])])


def _cluster(context: str | None, kubeconfig: Path | None, namespace: str | None) -> Cluster:
    from troth.ask.cluster import Cluster  # noqa: PLC0415 - see above
    from troth.kube.config import cluster_config  # noqa: PLC0415 - see above
    from troth.manifests.collect import DEFAULT_NAMESPACE as DEFAULT  # noqa: PLC0415 - see above

    config = cluster_config(kubeconfig, context)
    return Cluster(config, namespace or config.context.namespace or DEFAULT)
