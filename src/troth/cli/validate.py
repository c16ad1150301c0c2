"""`troth validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from troth.cli.annotations import as_github, as_sarif, of_problems
from troth.cli.asked import asked_cluster
from troth.cli.console import counted, err, out, print_json, print_lines
from troth.cli.manifests import FILES_HELP, ROOT_NAMESPACE, read_manifests
from troth.cli.options import (
    CheckOutput,
    CheckOutputOption,
    ContextOption,
    KubeconfigOption,
    RootNamespaceOption,
)
from troth.errors import Severity
from troth.explain.validate import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from troth.explain.validate import Validation

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("validate")(validate_command)


def validate_command(
    ctx: typer.Context,
    files: Annotated[list[Path] | None, typer.Option("--filename", "-f", help=FILES_HELP)] = None,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="The same as -f PATH.")
    ] = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            metavar="NAMESPACE",
            help="Only this namespace of a cluster; without -n all of them.",
        ),
    ] = None,
    root_namespace: RootNamespaceOption = ROOT_NAMESPACE,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Count warnings as errors, and of files also tell what troth up doesn't do.",
        ),
    ] = False,
    output: CheckOutputOption = CheckOutput.TEXT,
) -> int:
    """Find what is wrong with manifests or a cluster, and policies that don't do what they seem to.

    The exit code is 0 when there is no error, and 1 when there is one.
    """
    named = [*(files or ()), *(paths or ())]
    cluster = asked_cluster(
        ctx, context=context, kubeconfig=kubeconfig, namespace=namespace, files=named
    )
    if cluster:
        from troth.ask.cluster import read_objects, with_known_workloads  # noqa: PLC0415 - slow

        manifests = with_known_workloads(
            read_objects(cluster, root_namespace=root_namespace, namespace=namespace or "")
        )
    elif named:
        (manifests,) = read_manifests(named, namespace=namespace)
    else:
        raise typer.BadParameter("say what to look at: --filename PATH, or a cluster by --context")
    report = validate(
        manifests,
        root_namespace=root_namespace,
        local=strict and not cluster,
        count_local=not cluster,
    )
    if output is CheckOutput.JSON:
        print_json(report)
    elif output is CheckOutput.SARIF:
        print_json(as_sarif(of_problems(report.problems)))
    elif output is CheckOutput.GITHUB:
        print_lines(as_github(of_problems(report.problems)))
    else:
        _print(report)
        if report.without_effect and not strict:
            count = report.without_effect
            what = "1 field or kind has" if count == 1 else f"{count} fields and kinds have"
            err.print(f"{what} no effect in troth up; --strict names each", style="dim")
    return 1 if report.errors or (strict and report.warnings) else 0


def _kinds(found: Mapping[str, int]) -> str:
    return ", ".join(
        counted(number, kind.partition(".")[0]) for kind, number in sorted(found.items()) if number
    )


def _print(report: Validation) -> None:
    for problem in report.problems:
        note = " (warning)" if problem.severity is Severity.WARNING else ""
        colour = _COLOURS[problem.severity]
        out.print(f"[{colour}]{escape(str(problem))}[/]{note}", soft_wrap=True)
    looked_at, ignored = _kinds(report.objects), _kinds(report.ignored)
    err.print(
        f"looked at {looked_at or 'no object'}: {counted(report.errors, 'error')}, "
        f"{counted(report.warnings, 'warning')}" + (f"; passed over {ignored}" if ignored else ""),
        style="dim",
        soft_wrap=True,
    )
