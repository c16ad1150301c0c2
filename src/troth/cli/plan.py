"""`troth plan`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from troth.cli.asked import asked_cluster, full_object_name, mesh_of
from troth.cli.console import print_json, print_lines, print_tables
from troth.cli.manifests import (
    FILES_HELP,
    ROOT_NAMESPACE,
    pass_on_warnings,
    read_manifests,
    warn_of_errors,
)
from troth.cli.options import (
    CheckOutput,
    CheckOutputOption,
    ContextOption,
    KubeconfigOption,
    NamespaceOption,
    RootNamespaceOption,
)
from troth.cli.render.annotations import as_github, as_sarif, of_plan
from troth.cli.render.plan import render_plan
from troth.errors import InputError, Severity
from troth.explain.plan import plan
from troth.manifests.amend import amend, as_applied

if TYPE_CHECKING:
    from troth.explain.plan import Plan
    from troth.manifests.collect import Manifests

_FAILURES = frozenset({"breaks", "unencrypted", "weaker"})


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("plan")(plan_command)


def plan_command(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Option("--filename", "-f", help=f"What is in force today. {FILES_HELP}"),
    ] = None,
    new_files: Annotated[
        list[Path] | None,
        typer.Option("--with", help=f"Objects to add or to replace by identity. {FILES_HELP}"),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND/NAMESPACE/NAME", help="An object to take out; may be repeated."),
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: NamespaceOption = None,
    root_namespace: RootNamespaceOption = ROOT_NAMESPACE,
    applied_now: Annotated[
        bool,
        typer.Option(
            "--applied-now",
            help="Take new policies of --with for the youngest, as a cluster would. It is so "
            "anyway if any object given has a creationTimestamp.",
        ),
    ] = False,
    observed: Annotated[
        bool,
        typer.Option("--observed", help="Count the plaintext that the running mesh has seen, too."),
    ] = False,
    fail_on: Annotated[
        str,
        typer.Option(
            metavar="WHAT,...",
            help="What makes the exit code 1: breaks (a client would be refused), unencrypted (a "
            "connection would lose its encryption), weaker (a port would take what it refuses "
            "today), or none.",
        ),
    ] = "breaks,unencrypted",
    output: CheckOutputOption = CheckOutput.TEXT,
) -> int:
    """Say what a change would do: modes, who is refused, what loses encryption.

    The exit code is 0 when nothing that --fail-on names would happen, and 1 when something would,
    or when a part of the answer is unknown: for errors, missing rights, or objects that make pods
    of which nothing is known.
    """
    failures = _failures(fail_on)
    if not new_files and not without:
        raise typer.BadParameter("say what would change: --with or --without")
    cluster = asked_cluster(
        ctx, context=context, kubeconfig=kubeconfig, namespace=namespace, files=files
    )
    if cluster:
        namespace = cluster.namespace
    elif not files:
        raise typer.BadParameter(
            "say what is in force today: --filename PATH, or a cluster by --context"
        )
    current, new = read_manifests(files or [], new_files or [], namespace=namespace)
    if errors := [each for each in new.problems if each.severity is Severity.ERROR]:
        raise InputError(errors)
    if cluster:
        from troth.ask.cluster import read_objects, require_essentials  # noqa: PLC0415 - slow

        found = read_objects(cluster, root_namespace=root_namespace, entrances=True)
        require_essentials(found)
        current = found.manifests
        new = as_applied(new, found.created, now=datetime.now(UTC))
    elif applied_now or current.dated or new.dated:
        # Files that have no date themselves were applied before.
        moment = datetime.now(UTC) + timedelta(seconds=1)
        new = as_applied(new, {k: each.created for k, each in current.policies.items()}, now=moment)
    gone = [full_object_name(name, namespace) for name in without or ()]
    planned = amend(current, new=new, without=gone)
    report = plan(current, planned, root_namespace=root_namespace)
    if observed:
        changing = sorted({each.workload.namespace for each in report.changes})
        seen = mesh_of(cluster).plaintext(changing)
        report = plan(current, planned, root_namespace=root_namespace, observed=seen)
    _print(report, planned, output)
    failed = any(getattr(report, name) for name in (*failures, "problems", "unknown"))
    return 1 if failed else 0


def _print(report: Plan, planned: Manifests, output: CheckOutput) -> None:
    match output:
        case CheckOutput.SARIF:
            print_json(as_sarif(of_plan(report, planned.policies)))
            return
        case CheckOutput.GITHUB:
            print_lines(as_github(of_plan(report, planned.policies)))
            return
    warn_of_errors(report.problems)
    pass_on_warnings(report.warnings)
    if output is CheckOutput.JSON:
        print_json(report)
    else:
        print_tables(render_plan(report))


def _failures(text: str) -> frozenset[str]:
    """The fields of a plan that are to be empty."""
    if text == "none":
        return frozenset()
    names = frozenset(text.split(","))
    if not names <= _FAILURES:
        words = ", ".join(sorted(names - _FAILURES))
        raise typer.BadParameter(
            f"--fail-on: {words!r} is none of {', '.join(sorted(_FAILURES))} and none"
        )
    return names
