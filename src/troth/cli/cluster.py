"""The options by which commands take a cluster, named as kubectl names them, and asking it.

Any of them means a cluster, and so does being called as `kubectl troth`; ``-f`` means files, for
which ``-n`` only completes names; and without either it is the mesh on this machine.

What asks a cluster is imported only for that: it takes several times as long as to ask a local
mesh.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer

from troth.cli import PLUGIN
from troth.errors import InputError, Problem
from troth.policy.scope import Scope
from troth.syntax import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightkube import SingleConfig

    from troth.cluster.manifests import ClusterManifests
    from troth.explain.audit import Known
    from troth.explain.cluster_report import ClusterStatus
    from troth.explain.explain import Explanation
    from troth.identity.spiffe import TrustDomain
    from troth.manifests.collect import Manifests

ContextOption = Annotated[
    str | None, typer.Option("--context", help="Ask the cluster of this kubeconfig context.")
]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", help="Ask the cluster of this kubeconfig file.")
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="The namespace of names without one, in a cluster."),
]

_NAMESPACES = "namespaces"
_PODS = "pods"
_POLICIES = "peerauthentications.security.istio.io"


class Cluster(NamedTuple):
    """The cluster that is meant.

    Attributes:
        config: How to reach it, and as whom.
        namespace: Of names without one.
    """

    config: SingleConfig
    namespace: str


def chosen_cluster(
    ctx: typer.Context,
    *,
    context: str | None,
    kubeconfig: Path | None,
    namespace: str | None,
    files: Sequence[Path] | None = None,
    or_local: bool = False,
) -> Cluster | None:
    """The cluster that is meant; None when files are, or the mesh on this machine.

    Args:
        ctx: The command's.
        context: As given.
        kubeconfig: As given.
        namespace: As given; with ``or_local`` it is one of the mesh on this machine, if one runs
            and nothing else means a cluster.
        files: As given.
        or_local: The command can ask the mesh on this machine.

    Raises:
        TrothError: There is none, or no such one.
    """
    if namespace is not None and (flaw := NAMESPACE.flaw(namespace)):
        raise InputError([Problem(subject="-n", path="", found=flaw[0], wanted=flaw[1])])
    if files:
        if context is not None or kubeconfig is not None:
            raise typer.BadParameter("ask either files, by -f, or a cluster, by --context")
        return None
    if (context, kubeconfig, namespace) == (None, None, None) and not is_plugin(ctx):
        return None
    if or_local and context is None and kubeconfig is None and not is_plugin(ctx):
        from troth.control.state_dir import StateDirectory  # noqa: PLC0415 - only for this

        if StateDirectory().control.exists():
            return None
    from troth.kube.config import cluster_config  # noqa: PLC0415 - see above
    from troth.manifests.collect import DEFAULT_NAMESPACE  # noqa: PLC0415 - see above

    config = cluster_config(kubeconfig, context)
    return Cluster(config, namespace or config.context.namespace or DEFAULT_NAMESPACE)


def is_plugin(ctx: typer.Context) -> bool:
    """Whether the program was called as kubectl's plugin."""
    return ctx.find_root().info_name == PLUGIN


def full_name(name: str, namespace: str | None) -> str:
    """A workload's name with its namespace: its own, if it has one."""
    head, slash, rest = name.partition("/")
    # A label's key may have a slash, too: what is before it is then mostly a domain.
    if namespace is None or not (slash and rest and NAMESPACE.flaw(head) is None):
        return f"{namespace}/{name}" if namespace else name
    return name


def is_of(namespace: str | None, *names: str | None) -> bool:
    """Whether one of the names is ``NAMESPACE/NAME`` of that namespace; None is any."""
    return namespace is None or any(name.startswith(f"{namespace}/") for name in names if name)


def full_object_name(name: str, namespace: str | None) -> str:
    """``KIND/NAMESPACE/NAME`` of an object that may be named without its namespace."""
    kind, _, rest = name.partition("/")
    if namespace is None or not rest or "/" in rest or kind.lower() == "namespace":
        return name
    return f"{kind}/{namespace}/{rest}"


def ask_cluster(
    cluster: Cluster,
    *,
    root_namespace: str,
    namespace: str = "",
    keep: str = "",
    entrances: bool = False,
) -> ClusterManifests:
    """What a cluster was asked to run; see `troth.cluster.manifests.read_cluster`.

    Raises:
        TrothError: It can't be asked.
    """
    import asyncio  # noqa: PLC0415 - see above

    from troth.cluster.manifests import read_cluster  # noqa: PLC0415 - see above

    return asyncio.run(
        read_cluster(
            cluster.config,
            root_namespace=root_namespace,
            namespace=namespace,
            keep=keep,
            entrances=entrances,
        )
    )


def known_clients(cluster: Cluster, root_namespace: str) -> Known:
    """Who may call a namespace's pods, by what there is a right to read.

    Raises:
        TrothError: The cluster can't be asked.
    """
    from troth.explain.audit import Known  # noqa: PLC0415 - slow to import

    found = ask_cluster(cluster, root_namespace=root_namespace, entrances=True)
    lacking = {each.resource: each.problem for each in found.unreadable}
    if lacking:
        # Who may read this namespace alone sees what leads to it from there.
        own = ask_cluster(
            cluster, root_namespace=root_namespace, namespace=cluster.namespace, entrances=True
        )
        if not lacking.keys().isdisjoint({_NAMESPACES, _PODS}):
            found = own
        still = {each.resource for each in own.unreadable} | {_PODS}
        lacking = {name: each for name, each in lacking.items() if name in still}
    lacking.pop(_POLICIES, None)  # they say nothing of clients
    return Known.of(found.manifests, lacking.values())


def ask_status(
    cluster: Cluster, *, namespace: str, home: str, root_namespace: str, trust_domain: TrustDomain
) -> ClusterStatus:
    """How the mesh of a cluster is.

    Args:
        cluster: The cluster.
        namespace: Only this one's pods are looked at; empty for all.
        home: The namespace of the controller and the node agents.
        root_namespace: Where mesh-wide policies live.
        trust_domain: Of every identity.

    Raises:
        TrothError: It can't be asked, or there is no such namespace.
    """
    import asyncio  # noqa: PLC0415 - see above

    from troth.cluster.installation import read_installation  # noqa: PLC0415 - see above
    from troth.explain.cluster_status import cluster_status  # noqa: PLC0415 - see above
    from troth.explain.validate import lint_together  # noqa: PLC0415 - see above

    found = asyncio.run(
        read_installation(
            cluster.config, home=home, root_namespace=root_namespace, namespace=namespace
        )
    )
    if namespace and not found.namespaces:
        wanted = "name one of the cluster's, or leave -n out for all"
        raise InputError(
            [Problem(subject=f"namespace {namespace}", path="", found="isn't there", wanted=wanted)]
        )
    asked = ask_cluster(cluster, root_namespace=root_namespace, namespace=namespace)
    return cluster_status(
        found,
        home=home,
        root_namespace=root_namespace,
        trust_domain=trust_domain,
        now=datetime.now(UTC),
        doubts=lint_together(with_known_workloads(asked), root_namespace=root_namespace),
    )


def with_known_workloads(found: ClusterManifests) -> Manifests:
    """A cluster's objects, without any workloads if some are unknown.

    Nothing can be said then about which policy selects none.
    """
    if found.has_all_workloads:
        return found.manifests
    return msgspec.structs.replace(found.manifests, pods={}, deployments={}, workloads={})


def require_essentials(found: ClusterManifests, *, but_in: str = "") -> None:
    """Refuse to say anything about modes without all namespaces and policies that matter.

    Args:
        found: What was read.
        but_in: The namespace whose policies may be missing.

    Raises:
        EnvironmentLackError: One of them may not be read.
    """
    for each in found.unreadable:
        if each.resource in {_NAMESPACES, _POLICIES} and (
            each.resource == _NAMESPACES or not but_in or each.namespace != but_in
        ):
            raise each.error


def require_no_default(found: ClusterManifests, explanation: Explanation) -> None:
    """Refuse what a policy that may not be read could change.

    Raises:
        EnvironmentLackError: A mode is the default only because mesh-wide policies are unknown.
    """
    decided = (explanation.decided_by, *(port.decided_by for port in explanation.ports.values()))
    if any(each.scope is Scope.DEFAULT for each in decided):
        for lack in found.unreadable:
            if lack.resource == _POLICIES:
                raise lack.error
